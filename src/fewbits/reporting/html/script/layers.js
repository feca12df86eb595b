// The table of groups: sorted by a click on a heading, searched by name, fifty rows at a time.
const PAGE_ROWS = 50;
let sortKey = "place", sortUp = true, page = 0;

/** Return the columns: key, heading, value of a group (null sorts last), text, and whether it is a figure. */
function layerColumns() {
  const g = analysis.groups;
  const full = (analysis.profiles.find((profile) => profile.accepted) || analysis.profiles[0]).precision;
  const made = [
    { key: "place", label: "#", value: (i) => i + 1, text: (i) => String(i + 1), isFigure: true },
    { key: "name", label: "group", value: (i) => g.name[i], text: (i) => g.name[i] },
    { key: "op", label: "operator", value: (i) => g.op[i], text: (i) => g.op[i] },
    { key: "macs", label: "MACs", value: (i) => g.macs[i], text: (i) => count(g.macs[i]), isFigure: true },
    { key: "weights", label: "weights", value: (i) => g.weights[i], text: (i) => (g.weights[i] ? count(g.weights[i]) : "–"), isFigure: true },
  ];
  for (const precision of analysis.precisions) {
    const found = columns(precision);
    if (found) made.push({ key: "db:" + precision, label: precision + " dB", value: (i) => found.db[i], text: (i) => decibels(found.db[i]), isFigure: true });
  }
  const steps = analysis.profiles.filter((profile) => profile.percent !== undefined);
  if (steps.length) {
    const lifted = full.map((_, i) => {
      const step = steps.find((profile) => profile.precision[i] !== profile.base);
      return step ? step.percent : null;
    });
    made.push({ key: "lifted", label: "lifted at", value: (i) => lifted[i], text: (i) => (lifted[i] === null ? "–" : lifted[i] + " %"), isFigure: true });
  }
  made.push({ key: "precision", label: "precision", value: (i) => full[i], text: (i) => full[i], isPrecision: true });
  return made;
}

/** Return the indices of the groups that are listed, in order. */
function listedLayers(column) {
  const g = analysis.groups, wanted = byId("layer-search").value.trim().toLowerCase();
  const isFound = (i) => [g.name[i], g.op[i], ...g.nodes[i]].some((text) => text.toLowerCase().includes(wanted));
  const sign = sortUp ? 1 : -1;
  return g.name.map((_, i) => i).filter(isFound).sort((a, b) => {
    const x = column.value(a), y = column.value(b);
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y) || a - b;
  });
}

function layerHead(made) {
  const row = element("tr");
  for (const column of made) {
    const cell = element("th", undefined, column.isFigure ? "n" : "");
    cell.scope = "col";
    const button = cell.appendChild(element("button", column.label));
    button.type = "button";
    if (column.key === sortKey) cell.setAttribute("aria-sort", sortUp ? "ascending" : "descending");
    button.addEventListener("click", () => {
      sortUp = column.key === sortKey ? !sortUp : column.key !== "macs" && column.key !== "weights";
      sortKey = column.key;
      page = 0;
      paintLayers();
    });
    row.append(cell);
  }
  return row;
}

function layerRow(made, index) {
  const row = element("tr");
  row.dataset.group = index;
  for (const column of made) {
    const cell = element("td", undefined, column.isFigure ? "n" : column.key === "name" ? "name" : "");
    if (column.isPrecision) {
      cell.className = "chip";
      cell.appendChild(element("i")).style.background = precisionColor(column.text(index));
    }
    cell.append(column.text(index));
    if (column.key === "name" && analysis.groups.nodes[index].length) cell.title = "with " + analysis.groups.nodes[index].join(", ");
    row.append(cell);
  }
  return row;
}

function layerPager(total) {
  const pages = Math.max(Math.ceil(total / PAGE_ROWS), 1);
  page = Math.min(page, pages - 1);
  const button = (label, name, to) => {
    const made = element("button", label, "plain");
    made.type = "button";
    made.setAttribute("aria-label", name);
    made.disabled = to < 0 || to >= pages;
    made.addEventListener("click", () => { page = to; paintLayers(); });
    return made;
  };
  const place = element("span", "page " + (page + 1) + " of " + pages, "soft");
  byId("layer-pager").replaceChildren(button("‹", "Previous page", page - 1), place, button("›", "Next page", page + 1));
  byId("layer-pager").hidden = pages < 2;
}

function paintLayers() {
  const made = layerColumns(), table = byId("layer-table"), total = analysis.groups.name.length;
  const column = made.find((item) => item.key === sortKey) || made[0];
  sortKey = column.key;
  const listed = listedLayers(column);
  layerPager(listed.length);
  const shown = listed.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS);
  table.tHead.replaceChildren(layerHead(made));
  table.tBodies[0].replaceChildren(...shown.map((i) => layerRow(made, i)));
  const first = page * PAGE_ROWS + 1, which = shown.length < listed.length ? first + " to " + (first + shown.length - 1) + " of " : "";
  byId("layer-count").textContent = which + listed.length + (listed.length === total ? "" : " of " + total) + " groups";
}

/** Bring one group to sight in the table. */
function findLayer(index) {
  byId("layer-search").value = analysis.groups.name[index];
  page = 0;
  paintLayers();
  byId("layers").scrollIntoView();
}

function startLayers() {
  figure(paintLayers);
  byId("layer-search").addEventListener("input", () => { page = 0; paintLayers(); });
  onAnalysis(() => { page = 0; paintLayers(); });
}
