// SQNR of the output over the depth of the network, one point for each group and precision.
const PARTS = [["all", "Weights and activations"], ["weights", "Weights only"], ["activations", "Activations only"]];
let part = "all";

/** Return what the figures of a precision are, for the chosen part; null where there are none. */
function columns(precision, chosen) {
  const found = (analysis.figures[precision] || {})[chosen || part];
  return found || null;
}

/** Return the lines that describe a group, as plain text. */
function groupLines(index) {
  const groups = analysis.groups;
  const more = groups.nodes[index].length;
  const size = groups.macs[index] === null ? "" : ", " + count(groups.macs[index]) + " MACs";
  return groups.op[index] + (more ? " and " + more + " more node" + (more > 1 ? "s" : "") : "") + size
    + (groups.weights[index] ? ", " + count(groups.weights[index]) + " weights" : "");
}

function sensitivityTrace(precision) {
  const found = columns(precision);
  if (!found) return null;
  const groups = analysis.groups.name;
  const reach = (column) => column.map((value) => (value || 0) / 10);
  const isMany = groups.length > 150;
  return {
    type: "scatter", mode: "markers", name: precision, x: groups.map((_, i) => i + 1), y: inDb(found.db),
    marker: { color: precisionColor(precision), symbol: precisionSymbol(precision), size: isMany ? 5 : 7.5, opacity: isMany ? 0.85 : 1 },
    error_y: { visible: found.below.some((value) => value !== null), type: "data", symmetric: false, array: reach(found.above), arrayminus: reach(found.below), color: precisionColor(precision), thickness: isMany ? 0.6 : 1, width: 0 },
    text: groups.map((name, i) => {
      const [low, high] = [found.below[i], found.above[i]];
      const ends = low === null || high === null ? "" : " (" + decibels(found.db[i] - low) + " to " + decibels(found.db[i] + high) + ")";
      const real = part === "all" && analysis.measured[precision] ? analysis.measured[precision][i] : null;
      return "<b>" + wrapped(name) + "</b><br>" + plain(groupLines(i)) + "<br>" + plain(precision) + ": " + db(found.db[i]) + ends
        + (real === null ? "" : "<br>measured by a real run: " + db(real));
    }),
    hovertemplate: "%{text}<extra></extra>",
  };
}

function measuredTrace(precision) {
  const found = part === "all" ? analysis.measured[precision] : null;
  if (!found) return null;
  const name = precision + " measured";
  return {
    type: "scatter", mode: "markers", name: name, x: found.map((_, i) => i + 1), y: inDb(found),
    marker: { color: precisionColor(precision), symbol: precisionSymbol(precision) + "-open", size: 11, line: { width: 1.4 } },
    text: found.map((value, i) => "<b>" + wrapped(analysis.groups.name[i]) + "</b><br>" + plain(name) + ": " + db(value)),
    hovertemplate: "%{text}<extra></extra>",
  };
}

/** Return the range that shows the points; the ends of wide intervals may leave it. */
function sensitivityRange() {
  const values = analysis.precisions.map((p) => columns(p)).filter(Boolean).flatMap((found) => inDb(found.db)).filter((v) => v !== null);
  if (!values.length) return undefined;
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const margin = Math.max(0.06 * (high - low), 1);
  return [low - margin, high + margin];
}

function paintSensitivity() {
  const names = analysis.groups.name;
  const traces = analysis.precisions.flatMap((p) => [sensitivityTrace(p), measuredTrace(p)]).filter(Boolean);
  const isFew = names.length <= 24 && names.every((name) => name.length <= 18);
  const ticks = isFew ? { tickvals: names.map((_, i) => i + 1), ticktext: names.map(plain), tickangle: -40 } : {};
  draw(byId("sensitivity-plot"), traces, {
    xaxis: axis(isFew ? "" : "group, from input to output", Object.assign({ range: [0.2, names.length + 0.8], showgrid: false }, ticks)),
    yaxis: axis("output SQNR (dB)", { range: sensitivityRange() }), showlegend: true,
  });
}

function startSensitivity() {
  const choose = () => {
    const present = PARTS.filter(([key]) => analysis.precisions.some((p) => columns(p, key)));
    if (present.length && !present.some(([key]) => key === part)) part = present[0][0];
    choice(byId("part-choice"), present, part, (chosen) => {
      part = chosen;
      paintSensitivity();
      paintLayers();
      paintMap();
    });
  };
  choose();
  figure(paintSensitivity);
  byId("sensitivity-plot").on("plotly_click", (event) => findLayer(event.points[0].x - 1));
  onAnalysis(() => { choose(); paintSensitivity(); });
}
