// One tensor at a time: its histogram with what was observed and what the grid holds, and the range of each channel.
let tensor = 0;
const LEFT_OUT = "left out to keep this page small; record.json has it";

/** Return the indices of the tensors that are listed, in the chosen order. */
function listedTensors() {
  const tensors = analysis.tensors;
  const wanted = byId("tensor-search").value.trim().toLowerCase();
  const found = tensors.name.map((_, i) => i).filter((i) => tensors.name[i].toLowerCase().includes(wanted));
  const rank = (i) => (tensors.db[i] === null ? Infinity : tensors.db[i]);
  return byId("tensor-order").value === "error" ? found.sort((a, b) => rank(a) - rank(b) || a - b) : found;
}

function listTensors() {
  const tensors = analysis.tensors, listed = listedTensors();
  if (listed.length && !listed.includes(tensor)) tensor = listed[0];
  byId("tensor-choice").replaceChildren(...listed.map((i) => {
    const error = tensors.db[i] === null ? "" : ", " + db(tensors.db[i]);
    return new Option(tensors.name[i] + " (" + tensors.role[i] + error + ")", i, false, i === tensor);
  }));
  const place = listed.indexOf(tensor);
  byId("tensor-back").disabled = place <= 0;
  byId("tensor-next").disabled = place < 0 || place + 1 >= listed.length;
  paintTensor();
}

function tensorFacts() {
  const t = analysis.tensors, range = ([low, high]) => (low === null ? "–" : number(low) + " to " + number(high));
  const group = t.group[tensor];
  const facts = [
    ["observed", range(t.range[tensor])], ["grid holds", range(t.clip[tensor])],
    ["bits", t.bits[tensor] === null ? "float" : String(t.bits[tensor])],
    ["scale", t.scale[tensor] !== null ? String(Number(t.scale[tensor].toPrecision(4))) : t.bits[tensor] === null ? "–" : "one per channel"],
    ["zero point", t.zero[tensor] === null ? "–" : String(t.zero[tensor])],
    ["SQNR of the tensor", db(t.db[tensor])], ["group", group === null ? "–" : analysis.groups.name[group]],
  ];
  byId("tensor-facts").replaceChildren(...facts.filter(([, value]) => value !== "–").map(([name, value]) => {
    const made = element("div");
    made.append(element("dt", name), element("dd", value));
    return made;
  }));
}

/** Return lines at the ends of the observed range (dotted) and of the grid (dashed), along x or y. */
function rangeLines(along) {
  const t = analysis.tensors, other = along === "x" ? "y" : "x";
  const line = (value, dash, tone) => (value === null ? [] : [{
    type: "line", [along + "0"]: value, [along + "1"]: value, [other + "ref"]: "paper", [other + "0"]: 0, [other + "1"]: 1,
    line: { dash: dash, color: tone, width: 1.3 },
  }]);
  return [
    ...t.range[tensor].flatMap((value) => line(value, "dot", color("seen"))),
    ...t.clip[tensor].flatMap((value) => line(value, "dash", color("clip"))),
  ];
}

/** Return two entries of the legend that explain the lines. */
function lineKeys() {
  const key = (name, dash, tone) => ({ type: "scatter", mode: "lines", x: [null], y: [null], name: name, line: { dash: dash, color: tone, width: 1.6 }, hoverinfo: "skip" });
  const keys = [key("observed", "dot", color("seen"))];
  return analysis.tensors.clip[tensor][0] === null ? keys : [...keys, key("grid", "dash", color("clip"))];
}

function nothing(box, sentence) {
  draw(box, [], {
    xaxis: { visible: false }, yaxis: { visible: false }, showlegend: false,
    annotations: [{ text: sentence, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
  });
}

function paintHistogram() {
  const box = byId("histogram-plot"), packed = analysis.tensors.histogram[tensor];
  if (!packed) return nothing(box, packed === 0 ? LEFT_OUT : "no histogram is recorded for this tensor");
  const [first, width, top, fractions] = packed, [least, most] = analysis.tensors.clip[tensor];
  const counts = Array.from(unpack(fractions), (value) => Math.round(Math.expm1(value * top)));
  const left = counts.map((_, i) => first + i * width);
  const isClipped = left.map((x) => least !== null && (x + width / 2 < least || x + width / 2 > most));
  const bars = {
    type: "bar", x: left.map((x) => x + width / 2), y: counts.map((value) => value || null), width: width, showlegend: false,
    marker: { color: isClipped.map((is) => color(is ? "clip" : "fill")), line: { width: 0 } },
    text: counts.map((value, i) => number(left[i]) + " to " + number(left[i] + width) + "<br>about " + count(value) + " values" + (isClipped[i] ? ", clipped" : "")),
    textposition: "none", hovertemplate: "%{text}<extra></extra>",
  };
  draw(box, [bars, ...lineKeys()], {
    bargap: 0, showlegend: true, shapes: rangeLines("x"), xaxis: axis("value", { showgrid: false, zeroline: false }),
    yaxis: axis("values", { type: "log", exponentformat: "SI", dtick: 1, tickformat: "~s" }),
  });
}

function paintChannels() {
  const t = analysis.tensors, box = byId("channel-plot"), packed = t.channels[tensor];
  if (!packed) return nothing(box, packed === 0 ? LEFT_OUT : "no channels are recorded for this tensor");
  const [merged, bottom, span, lows, highs] = packed, value = (share) => bottom + share * span;
  const low = Array.from(unpack(lows), value), high = Array.from(unpack(highs), value);
  const ratios = new Map(t.outliers[tensor].map(([channel, ratio]) => [Math.floor(channel / merged), ratio]));
  const dead = new Set(t.dead[tensor].map((channel) => Math.floor(channel / merged)));
  const label = (i) => (merged > 1 ? "channels " + i * merged + " to " + ((i + 1) * merged - 1) : "channel " + i);
  const bars = {
    type: "bar", x: low.map((_, i) => (i + 0.5) * merged - 0.5), base: low, y: high.map((end, i) => end - low[i]), showlegend: false,
    width: merged * (low.length > 200 ? 1 : 0.72),
    marker: { color: low.map((_, i) => (ratios.has(i) ? color("clip") : color("fill"))), line: { width: 0 } },
    text: low.map((_, i) => label(i) + ": " + number(low[i]) + " to " + number(high[i])
      + (ratios.has(i) ? "<br>" + times(ratios.get(i)) + " the median channel" : "") + (dead.has(i) ? "<br>zero everywhere" : "")),
    textposition: "none", hovertemplate: "%{text}<extra></extra>",
  };
  draw(box, [bars, ...lineKeys()], {
    bargap: 0, showlegend: true, shapes: rangeLines("y"), xaxis: axis("channel", { showgrid: false, zeroline: false }), yaxis: axis("value", {}),
  });
}

function paintTensor() {
  if (!analysis.tensors.name.length) return;
  const t = analysis.tensors, says = [];
  tensorFacts();
  paintHistogram();
  paintChannels();
  if (t.outliers[tensor].length) {
    says.push("Far above the median channel: " + t.outliers[tensor].slice(0, 8).map(([i, ratio]) => "channel " + i + " (" + times(ratio) + ")").join(", ") + ".");
  }
  if (t.deadCount[tensor]) says.push(t.deadCount[tensor] + " channel" + (t.deadCount[tensor] > 1 ? "s are" : " is") + " zero everywhere.");
  const packed = t.channels[tensor];
  if (packed && packed[0] > 1) says.push("Each bar is the widest range of " + packed[0] + " neighbouring channels.");
  byId("tensor-notes").textContent = says.join(" ");
}

/** Show the tensor of that name, whatever is searched for. */
function showTensor(name) {
  const found = analysis.tensors.name.indexOf(name);
  if (found < 0) return;
  tensor = found;
  byId("tensor-search").value = "";
  listTensors();
}

/** Return the tensor to begin with: what the first diagnosis names, or the one with the lowest SQNR. */
function firstTensor() {
  const link = document.querySelector('[data-analysis="' + data.analyses.indexOf(analysis) + '"] [data-tensor]');
  const named = link ? analysis.tensors.name.indexOf(link.dataset.tensor) : -1;
  if (named >= 0) return named;
  const errors = analysis.tensors.db;
  return errors.reduce((best, value, i) => (value !== null && (errors[best] === null || value < errors[best]) ? i : best), 0);
}

function startRanges() {
  const begin = () => {
    tensor = firstTensor();
    byId("ranges").hidden = !analysis.tensors.name.length;
    byId("tensor-search").value = "";
    listTensors();
  };
  begin();
  drawings.push(paintTensor);
  const step = (by) => { tensor = listedTensors()[listedTensors().indexOf(tensor) + by]; listTensors(); };
  byId("tensor-choice").addEventListener("change", (event) => { tensor = Number(event.target.value); listTensors(); });
  byId("tensor-search").addEventListener("input", listTensors);
  byId("tensor-order").addEventListener("change", listTensors);
  byId("tensor-back").addEventListener("click", () => step(-1));
  byId("tensor-next").addEventListener("click", () => step(1));
  for (const link of all("[data-tensor]")) link.addEventListener("click", () => showTensor(link.dataset.tensor));
  onAnalysis(begin);
}
