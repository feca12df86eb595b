// One tile for each group, coloured by sensitivity or by precision.
let mapChoice = "";

function mix(low, high, share) {
  const parse = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
  const [a, b] = [parse(low), parse(high)];
  return "rgb(" + a.map((value, i) => Math.round(value + share * (b[i] - value))).join(",") + ")";
}

/** Return the colour of a sensitivity of 0 (robust) to 1 (sensitive). */
function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) ** 1.5 * 3, step = Math.min(Math.floor(place), 2);
  return mix(color("ramp" + step), color("ramp" + (step + 1)), place - step);
}

function mapOptions() {
  const known = analysis.precisions.filter((p) => columns(p)).map((p) => ["s:" + p, "sensitivity in " + p]);
  return [...known, ...analysis.profiles.map((profile, i) => ["p:" + i, "precision: " + profile.label])];
}

/** Return the colour of each tile and fill the legend. */
function mapColors(legend) {
  const key = mapChoice.slice(2);
  if (mapChoice.startsWith("p:")) {
    const precision = analysis.profiles[Number(key)].precision;
    const counts = new Map();
    for (const name of precision) counts.set(name, (counts.get(name) || 0) + 1);
    const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
    // the most frequent one is pale, so that the others stand out
    const tone = (name) => (name === names[0] ? mix(precisionColor(name), color("paper"), 0.6) : precisionColor(name));
    legend.replaceChildren(...names.map((name) => {
      const made = element("span");
      made.appendChild(element("i")).style.background = tone(name);
      made.append(name + ": " + counts.get(name) + " group" + (counts.get(name) > 1 ? "s" : ""));
      return made;
    }));
    return precision.map(tone);
  }
  const values = columns(key).db;
  const low = quantile(values, 0.01), high = quantile(values, 0.95);
  const made = element("span");
  const bar = element("i", "", "ramp");
  bar.style.background = "linear-gradient(90deg," + [0, 0.25, 0.5, 0.75, 1].map(ramp).join(",") + ")";
  made.append(db(high) + " and more", bar, db(low) + " and less");
  legend.replaceChildren(made);
  return values.map((value) => (value === null ? color("ramp0") : ramp(high === low ? 0 : (high - value) / (high - low))));
}

function paintMap() {
  const options = mapOptions();
  if (!options.some(([key]) => key === mapChoice)) mapChoice = options[0][0];
  const select = byId("map-choice");
  select.replaceChildren(...options.map(([key, label]) => new Option(label, key, false, key === mapChoice)));
  const tiles = byId("map-tiles");
  const many = analysis.groups.name.length;
  const across = many <= 60 ? Math.min(many, 30) : many <= 240 ? 40 : many <= 800 ? 50 : 72;
  tiles.style.gridTemplateColumns = "repeat(" + across + ", 1fr)";
  tiles.style.maxWidth = many <= 60 ? 34 * across + "px" : "";
  tiles.replaceChildren(...mapColors(byId("map-legend")).map((tone, i) => {
    const tile = element("b");
    tile.style.background = tone;
    tile.dataset.group = i;
    return tile;
  }));
}

function tileLines(index) {
  const lines = [analysis.groups.name[index], groupLines(index)];
  for (const precision of analysis.precisions) {
    const found = columns(precision);
    if (found) lines.push(precision + ": " + db(found.db[index]));
  }
  const profile = mapChoice.startsWith("p:") ? analysis.profiles[Number(mapChoice.slice(2))] : null;
  if (profile) lines.push("runs in " + profile.precision[index]);
  return lines.join("\n");
}

function startMap() {
  const accepted = analysis.profiles.findIndex((profile) => profile.accepted);
  if (accepted >= 0) mapChoice = "p:" + accepted;
  figure(paintMap);
  byId("map-choice").addEventListener("change", (event) => { mapChoice = event.target.value; paintMap(); });
  const tip = byId("tip"), tiles = byId("map-tiles");
  tiles.addEventListener("mousemove", (event) => {
    const index = event.target.dataset.group;
    tip.hidden = index === undefined;
    if (tip.hidden) return;
    tip.textContent = tileLines(Number(index));
    const isRight = event.clientX > innerWidth / 2, isLow = event.clientY > innerHeight / 2;
    tip.style.left = isRight ? "" : event.clientX + 14 + "px";
    tip.style.right = isRight ? innerWidth - event.clientX + 14 + "px" : "";
    tip.style.top = isLow ? "" : event.clientY + 14 + "px";
    tip.style.bottom = isLow ? innerHeight - event.clientY + 14 + "px" : "";
  });
  tiles.addEventListener("mouseleave", () => { tip.hidden = true; });
  tiles.addEventListener("click", (event) => {
    if (event.target.dataset.group !== undefined) findLayer(Number(event.target.dataset.group));
  });
  onAnalysis(paintMap);
}
