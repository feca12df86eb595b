// Score against what is lifted, with the goal as a line.
const LIFTED_AXES = [
  ["percent", "Groups lifted", "groups lifted (%)", 1],
  ["macs", "MACs lifted", "share of the MACs that is lifted (%)", 100],
  ["operations", "Bit operations", "bit operations (% of float)", 100],
];

function liftedValue(record, point, key) {
  if (key !== "operations") return point[key];
  return point.operations === null || !record.floatOperations ? null : point.operations / record.floatOperations;
}

function liftedText(record, point) {
  const lines = ["<b>" + plain(point.label) + "</b>", "score " + number(point.score, plain(record.unit))];
  if (point.ends) lines.push("95 % interval " + number(point.ends[0]) + " to " + number(point.ends[1]));
  if (point.groups) lines.push(point.groups + " groups" + (point.macs === null ? "" : ", " + (100 * point.macs).toFixed(1) + " % of the MACs"));
  const share = liftedValue(record, point, "operations");
  if (share !== null) lines.push((100 * share).toFixed(1) + " % of float's bit operations");
  lines.push((point.bytes / 1e6).toFixed(2) + " MB of weights");
  return lines.join("<br>");
}

function level(value, text, dash) {
  return {
    line: { type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: color("soft"), width: 1, dash: dash } },
    label: { xref: "paper", x: 1, xanchor: "left", xshift: 6, y: value, yanchor: "middle", text: text, showarrow: false, font: { size: 12, color: color("soft") } },
  };
}

function paintLifted(box, record, key) {
  const [, , title, factor] = LIFTED_AXES.find((item) => item[0] === key);
  const points = record.points.filter((point) => liftedValue(record, point, key) !== null && point.score !== null);
  const tone = { ok: color("ok"), noise: color("noise"), poor: color("poor") };
  const trace = {
    type: "scatter", mode: "lines+markers", x: points.map((p) => factor * liftedValue(record, p, key)), y: points.map((p) => p.score),
    line: { color: color("p0"), width: 1.5 },
    marker: {
      size: points.map((p) => (p.accepted ? 14 : 9)), color: points.map((p) => tone[p.status] || color("p0")),
      symbol: points.map((p) => (p.accepted ? "star" : p.status === "poor" ? "x" : "circle")), opacity: 1,
    },
    error_y: {
      visible: points.some((p) => p.ends), type: "data", symmetric: false, color: color("p0"), thickness: 1.2, width: 4,
      array: points.map((p) => (p.ends ? p.ends[1] - p.score : 0)), arrayminus: points.map((p) => (p.ends ? p.score - p.ends[0] : 0)),
    },
    text: points.map((p) => liftedText(record, p)), hovertemplate: "%{text}<extra></extra>",
  };
  const marks = [];
  if (record.threshold !== null) marks.push(level(record.threshold, "goal " + number(record.threshold, plain(record.unit)), "dash"));
  if (record.float !== null) marks.push(level(record.float, "float " + number(record.float, plain(record.unit)), "dot"));
  const names = points.filter((p) => p.percent === 0 || p.percent === 100 || p.accepted).map((p) => ({
    x: factor * liftedValue(record, p, key), y: p.score, text: plain(p.label) + (p.accepted ? ", accepted" : ""), showarrow: false,
    xanchor: p.percent === 100 ? "right" : "left", xshift: p.percent === 100 ? -12 : 12, yshift: -13, bgcolor: color("paper"), borderpad: 1, font: { size: 12, color: color("ink") },
  }));
  draw(box, [trace], {
    margin: { l: 64, r: 104, t: 16, b: 44 }, showlegend: false, xaxis: axis(title, { zeroline: false }),
    yaxis: axis(plain(record.metric + (record.unit ? " (" + record.unit + ")" : "")), { zeroline: false }),
    shapes: marks.map((mark) => mark.line), annotations: [...marks.map((mark) => mark.label), ...names],
  });
}

function startLitemp() {
  data.litemps.forEach((record, index) => {
    let key = "percent";
    const box = document.querySelector('[data-litemp="' + index + '"]');
    const paint = () => paintLifted(box, record, key);
    const present = LIFTED_AXES.filter(([name]) => record.points.every((point) => liftedValue(record, point, name) !== null));
    choice(document.querySelector('[data-litemp-axis="' + index + '"]'), present.map(([name, label]) => [name, label]), key, (chosen) => {
      key = chosen;
      paint();
    });
    figure(paint);
  });
}
