// Automatic mixed precision: cost against accuracy, the precision of every group in every point, errors, conversions.
const FEW_POINTS = 20;
/** Drops beyond so many times the goal are drawn at the edge of the chart. */
const CROWDED = 5;
/** Pixels that all labels of a chart, or the number of a bar, need. */
const ROOMY = 760, ROOM = 20;

/** Return a cost with its unit. */
function amount(record, value) {
  if (value === null) return "–";
  return (value >= 1e5 ? count(value) : number(value)) + " " + plain(record.costUnit);
}
const percent = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0) + " %";
const isChosen = (record, point) => point.number === record.chosen;
const isKnown = (value) => value !== null && value !== undefined;

/** Return what the page shows of a point as text; `drop` is in the unit of the score. */
function ampText(record, point) {
  const unit = plain(record.unit);
  const mark = isChosen(record, point) ? (record.isAccepted ? ", accepted" : ", the best") : "";
  const lines = ["<b>point " + point.number + mark + "</b>, " + plain(point.origin)];
  lines.push(wrapped(point.shares.map(([name, share]) => percent(share) + " " + name).join(", ")));
  lines.push("cost " + amount(record, point.cost) + (record.against ? ", " + percent(point.cost / record.against[1]) + " of " + plain(record.against[0]) : ""));
  lines.push(conversionsText(record, point));
  if (point.isScored) lines.push("score " + number(point.score, unit) + (isKnown(point.drop) && !record.isFloor ? ", drop " + number(point.drop) : ""));
  if (point.ends && !record.isFloor) lines.push("95 % interval of the drop " + number(point.ends[0]) + " to " + number(point.ends[1]));
  const known = [["predicted", point.predicted], ["measured", point.measured]].filter(([, value]) => isKnown(value));
  if (known.length) lines.push("error " + known.map(([name, value]) => name + " " + number(value)).join(", "));
  return lines.join("<br>");
}

function conversionsText(record, point) {
  if (!point.conversions) return "no conversions";
  const share = point.cost > 0 ? ", " + (100 * point.conversionCost / point.cost).toFixed(1) + " % of the cost" : "";
  return point.conversions + " conversion" + (point.conversions > 1 ? "s" : "") + ": " + amount(record, point.conversionCost) + share;
}

const ampTone = (point) => ({ ok: color("ok"), noise: color("noise"), poor: color("poor") })[point.status] || color("p0");
const ampSymbol = (record, point) => (isChosen(record, point) ? "star" : point.status === "poor" ? "x" : "circle");
/** Return what judges a point: its drop, or its SQNR. */
const judged = (record, point) => (record.isFloor ? point.score : point.drop);

/** Return the largest drop that the chart shows when it looks at the goal; null where it shows all anyhow. */
function nearGoal(record) {
  if (record.isFloor || !(record.goal > 0)) return null;
  const highest = record.points.reduce((most, point) => Math.max(most, judged(record, point) || 0), 0);
  return highest > CROWDED * record.goal ? CROWDED * record.goal : null;
}

/** Return the points that no cheaper one is as good as, by rising cost. */
function frontier(points, value, sign) {
  let best = Infinity;
  return points.filter((point) => {
    const found = value(point);
    if (!isKnown(found) || sign * found >= best) return false;
    best = sign * found;
    return true;
  });
}

function scoredTraces(record, top, isRoomy) {
  const points = record.points.filter((point) => point.isScored && isKnown(judged(record, point)));
  const isBeyond = (point) => top !== null && judged(record, point) > top;
  const height = (point) => (isBeyond(point) ? top : judged(record, point));
  const costs = points.map((p) => p.cost), far = Math.min(...costs) + 0.8 * (Math.max(...costs) - Math.min(...costs));
  const isNamed = (point) => point.shares.length === 1;
  const best = frontier(points, (point) => judged(record, point), record.isFloor ? -1 : 1);
  const reach = (point, i) => (point.ends && !isBeyond(point) ? Math.max(0, i ? point.ends[1] - point.drop : point.drop - point.ends[0]) : 0);
  return [{
    type: "scatter", mode: "lines", x: best.map((p) => p.cost), y: best.map(height), line: { color: color("p0"), width: 1.2, shape: "hv" },
    hoverinfo: "skip", showlegend: false,
  }, {
    type: "scatter", mode: "markers+text", showlegend: false, x: points.map((p) => p.cost), y: points.map(height), cliponaxis: false,
    marker: {
      size: points.map((p) => (isChosen(record, p) ? 15 : 9)), color: points.map(ampTone), opacity: 1,
      symbol: points.map((p) => (isBeyond(p) ? "triangle-up" : ampSymbol(record, p))),
    },
    error_y: {
      visible: !record.isFloor && points.some((p) => p.ends), type: "data", symmetric: false, color: color("p0"), thickness: 1.2, width: 4,
      array: points.map((p) => reach(p, 1)), arrayminus: points.map((p) => reach(p, 0)),
    },
    text: points.map((p) => (isRoomy || isNamed(p) || isChosen(record, p) ? " " + plain(isNamed(p) ? p.name : p.number) + " " : "")), textposition: points.map((p) => (p.cost > far ? "top left" : "top right")),
    textfont: { size: 11.5, color: points.map((p) => color(isChosen(record, p) ? "ink" : "soft")) },
    customdata: points.map((p) => ampText(record, p)), hovertemplate: "%{customdata}<extra></extra>",
  }];
}

/** Return where an error lies on a logarithmic axis; none at all lies at its lower end. */
function logPlace(record) {
  const known = record.points.flatMap((p) => [p.predicted, p.measured]).filter((value) => isKnown(value) && value > 0);
  const low = known.reduce((a, b) => Math.min(a, b), known.length ? known[0] : 1);
  return (value) => (value > 0 ? value : low / 3);
}

function errorTraces(record) {
  const place = logPlace(record);
  const predicted = record.points.filter((p) => isKnown(p.predicted)), measured = record.points.filter((p) => isKnown(p.measured));
  const best = frontier(predicted, (p) => p.predicted, 1);
  const shared = { type: "scatter", yaxis: "y2", hovertemplate: "%{customdata}<extra></extra>" };
  return [{
    type: "scatter", yaxis: "y2", mode: "lines", x: best.map((p) => p.cost), y: best.map((p) => place(p.predicted)), line: { color: color("p0"), width: 1.2 },
    hoverinfo: "skip", showlegend: false,
  }, Object.assign({
    mode: "markers", name: "predicted error", x: predicted.map((p) => p.cost), y: predicted.map((p) => place(p.predicted)),
    marker: { symbol: predicted.map((p) => (p.isScored ? "circle" : "circle-open")), size: 8, color: color("p0"), line: { width: 1.3 } },
    customdata: predicted.map((p) => ampText(record, p)),
  }, shared), Object.assign({
    mode: "markers", name: "measured error", x: measured.map((p) => p.cost), y: measured.map((p) => place(p.measured)),
    marker: { symbol: "diamond", size: 8, color: color("ink") }, customdata: measured.map((p) => ampText(record, p)),
  }, shared)];
}

/** Return the range of the drops: of all, or of those near the goal. */
function dropRange(record, top) {
  if (record.isFloor || top === null) return undefined;
  const low = record.points.reduce((least, p) => Math.min(least, p.ends ? p.ends[0] : 0, p.drop || 0), 0);
  const margin = 0.05 * (top - Math.max(low, -top));
  return [Math.max(low, -top) - margin, top + margin];
}

/** Return a line with its name at the left end, or at the top of an upright one. */
function ampLevel(value, text, isUpright) {
  const place = isUpright ? { xref: "x", x: value, yref: "paper", y: 1, xanchor: "left", yanchor: "top", xshift: 3 }
    : { xref: "paper", x: 0, yref: "y", y: value, xanchor: "left", yanchor: "bottom", xshift: 3 };
  const ends = isUpright ? { xref: "x", x0: value, x1: value, yref: "paper", y0: 0, y1: 1 } : { xref: "paper", x0: 0, x1: 1, yref: "y", y0: value, y1: value };
  return {
    line: Object.assign({ type: "line", line: { color: color("soft"), width: 1, dash: "dash" } }, ends),
    label: Object.assign({ text: text, showarrow: false, bgcolor: color("paper"), borderpad: 1, font: { size: 12, color: color("soft") } }, place),
  };
}

function paintAmp(box, record, top) {
  const hasErrors = record.points.some((p) => isKnown(p.predicted) || isKnown(p.measured));
  const scored = record.points.filter((p) => p.isScored), marks = [];
  if (isKnown(record.goal)) marks.push(ampLevel(record.goal, "goal " + number(record.goal, plain(record.unit)), false));
  if (isKnown(record.budget)) marks.push(ampLevel(record.budget, "budget " + amount(record, record.budget), true));
  const unit = record.unit ? " (" + plain(record.unit) + ")" : "";
  const layout = {
    height: hasErrors ? 580 : 360, margin: { l: 64, r: 26, t: 16, b: 44 }, showlegend: hasErrors,
    legend: { orientation: "h", x: 0, y: 0.395, xanchor: "left", yanchor: "bottom", font: { color: color("ink") } },
    xaxis: axis("cost (" + plain(record.costUnit) + (record.isEstimate ? ", estimated" : "") + ")", { zeroline: false, exponentformat: "SI", anchor: hasErrors ? "y2" : "y" }),
    yaxis: axis(record.isFloor ? plain(record.metric) + unit : "drop of " + plain(record.metric) + unit, { zeroline: !record.isFloor, range: dropRange(record, top), autorange: top === null, domain: hasErrors ? [0.47, 1] : [0, 1] }),
    shapes: marks.map((mark) => mark.line), annotations: marks.map((mark) => mark.label),
  };
  if (hasErrors) layout.yaxis2 = axis("error of outputs", { type: "log", exponentformat: "power", domain: [0, 0.38], zeroline: false });
  draw(box, [...scoredTraces(record, top, box.clientWidth >= ROOMY && scored.length <= FEW_POINTS), ...(hasErrors ? errorTraces(record) : [])], layout);
}

function paintErrors(box, record) {
  const points = record.points.filter((p) => isKnown(p.predicted) && isKnown(p.measured));
  const place = logPlace(record);
  const values = points.flatMap((p) => [place(p.predicted), place(p.measured)]);
  const low = Math.log10(values.reduce((a, b) => Math.min(a, b), Infinity)), high = Math.log10(values.reduce((a, b) => Math.max(a, b), 0));
  const margin = Math.max(0.08 * (high - low), 0.15), range = [low - margin, high + margin];
  const ends = range.map((value) => 10 ** value);
  const log = (title) => axis(title, { type: "log", range: [...range], exponentformat: "power", zeroline: false, dtick: high - low > 1 ? 1 : undefined });
  draw(box, [{ type: "scatter", mode: "lines", x: ends, y: ends, line: { color: color("soft"), width: 1, dash: "dash" }, hoverinfo: "skip" }, {
    type: "scatter", mode: points.length <= FEW_POINTS ? "markers+text" : "markers", x: points.map((p) => place(p.predicted)), y: points.map((p) => place(p.measured)),
    marker: { size: points.map((p) => (isChosen(record, p) ? 14 : 9)), color: points.map(ampTone), symbol: points.map((p) => ampSymbol(record, p)), opacity: 1 },
    text: points.map((p) => p.number + " "), textposition: "top left", cliponaxis: false, textfont: { size: 11.5, color: color("soft") },
    customdata: points.map((p) => ampText(record, p)), hovertemplate: "%{customdata}<extra></extra>",
  }], { margin: { l: 60, r: 12, t: 28, b: 44 }, showlegend: false, xaxis: log("predicted error"), yaxis: log("measured error") });
}

function paintConversions(box, record) {
  const points = record.points, isFew = points.length * ROOM <= box.clientWidth - 64;
  const shares = points.map((p) => (p.cost > 0 ? 100 * p.conversionCost / p.cost : 0));
  draw(box, [{
    type: "bar", x: points.map((_, i) => i), y: shares, cliponaxis: false,
    marker: { color: points.map((p) => color(p.isScored ? "p0" : "line")), line: { color: points.map((p) => color(isChosen(record, p) ? "ink" : "p0")), width: points.map((p) => (isChosen(record, p) ? 2 : 0.5)) } },
    text: isFew ? points.map((p) => String(p.conversions)) : undefined, textposition: "outside", textangle: 0, textfont: { size: 11.5, color: color("soft") },
    customdata: points.map((p) => ampText(record, p)), hovertemplate: "%{customdata}<extra></extra>",
  }], {
    margin: { l: 52, r: 12, t: 28, b: 44 }, showlegend: false, bargap: 0.3,
    xaxis: axis("point, by rising cost", { showgrid: false, tickangle: 0, ...(isFew ? { tickvals: points.map((_, i) => i), ticktext: points.map((p) => String(p.number)) } : { showticklabels: false }) }),
    yaxis: axis("conversions (% of cost)", { rangemode: "tozero", range: shares.some((share) => share > 0) ? undefined : [0, 1] }),
  });
}

/** Return bands of one colour for each precision, between 0 and 1. */
function bands(tones) {
  return tones.flatMap((tone, i) => [[i / tones.length, tone], [(i + 1) / tones.length, tone]]);
}

function paintProfiles(box, record, points) {
  const groups = record.groups, many = groups.name.length;
  const tones = record.precisions.map(precisionColor);
  const cells = points.map((p) => Array.from(p.codes, (code) => (code === " " ? null : code.charCodeAt(0) - 48)));
  const who = groups.name.map((name, i) => "<b>" + wrapped(name) + "</b><br>" + groups.nodes[i] + " node" + (groups.nodes[i] > 1 ? "s" : "")
    + (groups.macs[i] === null ? "" : ", " + (100 * groups.macs[i]).toFixed(2) + " % of the MACs"));
  const hasMacs = groups.macs.some((share) => share > 0), strip = hasMacs ? 72 : 0;
  const tall = Math.max(24 * points.length, 30), height = tall + strip + 72, inner = tall + strip;
  const x = groups.name.map((_, i) => i + 1);
  const traces = [{
    type: "heatmap", x: x, y: points.map((_, i) => i), z: cells, zmin: -0.5, zmax: tones.length - 0.5, colorscale: bands(tones), showscale: false,
    xgap: many <= 160 ? 1 : 0, ygap: 4, customdata: points.map(() => who), text: points.map((p, i) => cells[i].map((cell) => (cell === null ? "" : "point " + p.number + ": " + plain(record.precisions[cell])))),
    hovertemplate: "%{customdata}<br>%{text}<extra></extra>", hoverongaps: false,
  }];
  if (hasMacs) traces.push({ type: "bar", x: x, y: groups.macs.map((share) => 100 * (share || 0)), yaxis: "y2", marker: { color: color("fill") }, customdata: who, hovertemplate: "%{customdata}<extra></extra>", showlegend: false });
  const row = points.findIndex((p) => isChosen(record, p));
  const frame = { type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: row - 0.5, y1: row + 0.5, line: { color: color("ink"), width: 1.5 } };
  const label = (p) => (isChosen(record, p) ? "<b>★ " + p.number + "</b>" : String(p.number)) + (record.against ? "  " + percent(p.cost / record.against[1]) : "");
  box.style.height = height + "px";
  draw(box, traces, {
    height: height, margin: { l: 64, r: 12, t: 28, b: 44 }, bargap: 0.15, showlegend: false, shapes: row < 0 ? [] : [frame],
    xaxis: axis("group, from input to output", { range: [0.5, many + 0.5], showgrid: false, zeroline: false, anchor: hasMacs ? "y2" : "y" }),
    yaxis: axis("", { range: [points.length - 0.5, -0.5], tickvals: points.map((_, i) => i), ticktext: points.map(label), showgrid: false, zeroline: false, ticks: "", domain: [strip / inner, 1] }),
    ...(hasMacs ? { yaxis2: axis("% MACs", { domain: [0, (strip - 14) / inner], nticks: 3, fixedrange: true, rangemode: "tozero" }) } : {}),
  });
}

function paintAmpLegend(legend, record) {
  legend.replaceChildren(...record.precisions.map((name) => {
    const made = element("span");
    made.appendChild(element("i")).style.background = precisionColor(name);
    made.append(name);
    return made;
  }));
}

function startAmpFigure(record, find) {
  const near = nearGoal(record), scored = record.points.filter((point) => point.isScored);
  let top = near, points = scored.length ? scored : record.points;
  const main = find("amp"), profile = find("amp-profile"), errors = find("amp-errors");
  const paint = () => paintAmp(main, record, top);
  const paintRows = () => { paintProfiles(profile, record, points); paintAmpLegend(find("amp-legend"), record); };
  choice(find("amp-range"), near === null ? [] : [["near", "Near the goal"], ["all", "All points"]], "near", (key) => { top = key === "near" ? near : null; paint(); });
  const rows = scored.length && scored.length < record.points.length ? [["scored", "Scored points"], ["all", "All points"]] : [];
  choice(find("amp-rows"), rows, "scored", (key) => { points = key === "scored" ? scored : record.points; paintRows(); });
  figure(paint);
  figure(paintRows);
  if (record.points.some((p) => isKnown(p.predicted) && isKnown(p.measured))) figure(() => paintErrors(errors, record));
  else errors.closest("figure").hidden = true;
  figure(() => paintConversions(find("amp-conversions"), record));
}

function startAmp() {
  data.amps.forEach((record, index) => {
    if (typeof record.groups.name === "number") record.groups.name = data.analyses[record.groups.name].groups.name;
    startAmpFigure(record, (name) => document.querySelector("[data-" + name + '="' + index + '"]'));
  });
}
