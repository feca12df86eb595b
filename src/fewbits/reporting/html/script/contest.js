// All candidates on one chart: score against what they cost.
const CONTEST_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "pentagon", "cross", "hexagram"];
/** Losses beyond so many times what the goal allows are drawn at the edge of the chart. */
const FAR = 4;
const STATUS_WORDS = { ok: "meets the goal", noise: "undecided", poor: "misses the goal" };

const brief = (name) => plain(name.length > 28 ? name.slice(0, 27) + "…" : name);

function costText(key, value) {
  if (key === "operations") return count(value) + " bit operations";
  if (key === "bytes") return (value / 1e6).toFixed(2) + " MB of weights";
  return number(value) + " ms" + (key.includes(":") ? " (" + plain(key.slice(key.indexOf(":") + 1)) + ")" : "");
}

function contestText(record, point) {
  const unit = plain(record.unit);
  const lines = ["<b>" + wrapped(point.name) + (point.isChosen ? ", chosen" : "") + "</b>"];
  if (point.detail) lines.push(wrapped(point.detail));
  lines.push(plain(record.kinds[point.kind]) + (point.status ? ": " + STATUS_WORDS[point.status] : ""));
  lines.push("score " + number(point.score, unit) + (point.ends ? " (95 %: " + number(point.ends[0]) + " to " + number(point.ends[1]) + ")" : ""));
  for (const [key, value] of Object.entries(point.costs)) lines.push(costText(key, value));
  if (point.isPareto) lines.push("of the Pareto set");
  if (point.folder) lines.push(wrapped(point.folder));
  return lines.join("<br>");
}

const costOf = (point, key) => point.costs[key] / (key === "bytes" ? 1e6 : 1);
/** A shape tells the step, filled or hollow tells the goal, so that no colour is needed to read the chart. */
const contestSymbol = (point) => CONTEST_SYMBOLS[point.kind % CONTEST_SYMBOLS.length] + (point.status && point.status !== "ok" ? "-open" : "");
const contestTone = (point) => color({ ok: "ok", noise: "noise", poor: "poor" }[point.status] || "p0");

/** Return the score beyond which the chart does not reach when it looks at the goal; null where it shows all anyhow. */
function contestEdge(record) {
  const level = (isGoal) => record.levels.filter((one) => one[2] === isGoal).map((one) => one[1]);
  const goals = level(true), floats = level(false), sign = record.higher ? 1 : -1;
  if (!goals.length || !floats.length) return null;
  const best = sign * Math.max(...floats.map((v) => sign * v)), lowest = sign * Math.min(...goals.map((v) => sign * v));
  const edge = best - sign * FAR * Math.abs(best - lowest);
  const isClear = edge !== best && record.points.some((p) => sign * p.score < sign * edge) && record.points.some((p) => sign * p.score >= sign * edge);
  return isClear ? edge : null;
}

/** Return the points that have their names beside them: of the best ones those that stand free. */
function contestNames(record, points, best, key, edge, isRoomy) {
  const named = [];
  const costs = points.map((p) => Math.log(p.costs[key])), [low, high] = contestRange(record, points, edge);
  const across = Math.max(...costs) - Math.min(...costs) || 1;
  const isFree = (p) => points.every((o) => o === p || Math.abs(Math.log(o.costs[key]) - Math.log(p.costs[key])) > 0.09 * across || Math.abs(o.score - p.score) > 0.07 * (high - low));
  for (const p of isRoomy ? best : []) if (!p.isChosen && isFree(p)) named.push(p);
  return named;
}

/** Return where a logarithmic axis has its marks, and what they say. */
function logMarks(values, say) {
  const low = Math.min(...values) / 1.1, high = Math.max(...values) * 1.1, found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of [1, 2, 3, 5, 7]) found.push(digit * 10 ** power);
  }
  const kept = found.filter((value) => value >= low && value <= high);
  return { tickmode: "array", tickvals: kept, ticktext: kept.map(say) };
}

function contestTraces(record, key, edge, isRoomy) {
  const sign = record.higher ? 1 : -1;
  const points = record.points.filter((p) => key in p.costs).sort((a, b) => a.costs[key] - b.costs[key] || sign * (b.score - a.score));
  const isBeyond = (p) => edge !== null && sign * p.score < sign * edge;
  const height = (p) => (isBeyond(p) ? edge : p.score);
  const best = frontier(points, (p) => p.score, -sign);
  const costs = points.map((p) => p.costs[key]), far = Math.min(...costs) + 0.6 * (Math.max(...costs) - Math.min(...costs));
  const named = contestNames(record, points, best, key, edge, isRoomy), isNamed = (p) => named.includes(p);
  const place = (some) => ({ x: some.map((p) => costOf(p, key)), y: some.map(height) });
  const reach = (p, i) => (p.ends && !isBeyond(p) ? Math.max(0, i ? p.ends[1] - p.score : p.score - p.ends[0]) : 0);
  const line = { type: "scatter", mode: "lines", ...place(best), line: { color: color("p0"), width: 1.4, shape: "hv" }, hoverinfo: "skip", name: "Pareto set", showlegend: best.length > 1 };
  const ring = points.filter((p) => p.isChosen);
  const rings = { type: "scatter", mode: "markers", ...place(ring), marker: { symbol: "circle-open", size: 22, color: color("ink"), line: { width: 2 } }, hoverinfo: "skip", name: "chosen", showlegend: ring.length > 0, cliponaxis: false };
  const marks = {
    type: "scatter", mode: "markers+text", ...place(points), showlegend: false, cliponaxis: false,
    marker: {
      size: points.map((p) => (p.isPareto ? 12 : 9)), color: points.map(contestTone), opacity: 1, line: { width: points.map((p) => (p.isPareto && p.status === "ok" ? 1.5 : 1.8)), color: points.map((p) => (p.isPareto && p.status === "ok" ? color("ink") : contestTone(p))) },
      symbol: points.map((p) => (isBeyond(p) ? (record.higher ? "triangle-down-open" : "triangle-up-open") : contestSymbol(p))),
    },
    error_y: { visible: points.some((p) => p.ends), type: "data", symmetric: false, color: color("p0"), thickness: 1, width: 3, array: points.map((p) => reach(p, 1)), arrayminus: points.map((p) => reach(p, 0)) },
    text: points.map((p) => (isNamed(p) ? "   " + brief(p.name) + "   " : "")),
    textposition: points.map((p) => (p.costs[key] > far ? "middle left" : "middle right").replace("middle", record.higher ? "top" : "bottom")),
    textfont: { size: 11.5, color: color("soft") },
    customdata: points.map((p) => contestText(record, p)), meta: points.map((p) => p.row), hovertemplate: "%{customdata}<extra></extra>",
  };
  const used = record.kinds.map((_, i) => i).filter((i) => points.some((p) => p.kind === i));
  const keys = used.map((i) => ({
    type: "scatter", mode: "markers", x: [null], y: [null], name: plain(record.kinds[i]), hoverinfo: "skip",
    marker: { symbol: CONTEST_SYMBOLS[i % CONTEST_SYMBOLS.length], size: 9, color: color("soft") },
  }));
  return { traces: [line, rings, marks, ...keys], points: points };
}

/** Return a level; its name stands beside its right end, or above its left end where there is no room. */
function contestLevel([name, value, isGoal], unit, isRoomy) {
  const place = isRoomy ? { x: 1, xanchor: "left", xshift: 6, yanchor: "middle" } : { x: 0, xanchor: "left", xshift: 3, yanchor: "bottom" };
  return {
    line: { type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, layer: "below", line: { color: color("soft"), width: 1, dash: isGoal ? "dash" : "dot" } },
    label: { xref: "paper", y: value, text: brief(name) + " " + number(value, unit), showarrow: false, bgcolor: color("paper"), borderpad: 1, font: { size: 12, color: color("soft") }, ...place },
  };
}

/** Return the name of a chosen point with an arrow: away from the line of the best, where the chart is emptiest. */
function chosenLabel(record, point, key, isLog, isRight, edge, place, range) {
  const x = costOf(point, key), away = record.higher ? 1 : -1, height = (point.score - range[0]) / (range[1] - range[0]);
  const down = height < 0.3 ? -1 : height > 0.7 ? 1 : away;
  return {
    x: isLog ? Math.log10(x) : x, y: edge !== null && away * point.score < away * edge ? edge : point.score,
    text: "<b>" + brief(point.name) + "</b>", font: { size: 12.5, color: color("ink") }, bgcolor: color("paper"), borderpad: 3,
    showarrow: true, arrowhead: 0, arrowwidth: 1.2, arrowcolor: color("ink"), standoff: 12, ax: isRight ? -70 : 70, ay: (58 + 30 * place) * down,
  };
}

function contestRange(record, points, edge) {
  const sign = record.higher ? 1 : -1;
  const ends = points.filter((p) => edge === null || sign * p.score >= sign * edge).flatMap((p) => [p.score, ...(p.ends || [])]);
  const values = [...ends, ...record.levels.map((level) => level[1])];
  if (edge !== null) values.push(edge);
  let low = Math.min(...values), high = Math.max(...values);
  if (edge !== null) [low, high] = record.higher ? [edge, high] : [low, edge];
  const margin = 0.06 * (high - low || 1);
  return [low - margin, high + margin];
}

function paintContest(box, record, key, edge) {
  const unit = plain(record.unit), found = contestTraces(record, key, edge, box.clientWidth > 640);
  const isRoomy = box.clientWidth > 640, range = contestRange(record, found.points, edge);
  const marks = record.levels.map((level) => contestLevel(level, unit, isRoomy));
  const title = record.axes.find((axis) => axis[0] === key)[2];
  if (key.startsWith("latency") && record.maxLatency !== null) {
    const limit = ampLevel(record.maxLatency, "limit " + number(record.maxLatency, "ms"), true);
    marks.push(limit);
  }
  const costs = found.points.map((p) => costOf(p, key)), isWide = Math.max(...costs) > 6 * Math.min(...costs);
  const say = (value) => (key === "operations" ? count(value).replace(".0", "") : String(Number(value.toPrecision(3))));
  const middle = (Math.min(...costs) * Math.max(...costs)) ** 0.5;
  const chosen = found.points.filter((p) => p.isChosen).map((p, i, some) => chosenLabel(record, p, key, isWide, costOf(p, key) > 1.4 * (isWide ? middle : (Math.min(...costs) + Math.max(...costs)) / 2), edge, some.length - 1 - i, range));
  draw(box, found.traces, {
    margin: { l: 62, r: isRoomy ? 116 : 16, t: 30, b: 46 }, showlegend: true,
    xaxis: axis(title, { zeroline: false, type: isWide ? "log" : "linear", exponentformat: "SI", ...(isWide ? logMarks(costs, say) : {}) }),
    yaxis: axis(plain(record.metric) + (unit ? " (" + unit + ")" : "") + (record.higher ? "" : ", lower is better"), { zeroline: false, range: range }),
    shapes: marks.map((mark) => mark.line), annotations: [...marks.map((mark) => mark.label), ...chosen],
  });
}

/** Show a row of the table under the chart, and nothing of the row that was shown before. */
function showRow(id) {
  for (const row of all("tr.found")) row.classList.remove("found");
  const row = byId(id);
  if (!row) return;
  row.classList.add("found");
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
}

function startContests() {
  data.contests.forEach((record, index) => {
    const find = (name) => document.querySelector("[data-" + name + '="' + index + '"]');
    const box = find("contest");
    if (!record.points.length || !record.axes.length) {
      box.hidden = true;
      return;
    }
    let key = record.axes[0][0], edge = contestEdge(record);
    const near = edge, paint = () => paintContest(box, record, key, edge);
    choice(find("contest-axis"), record.axes.map(([name, label]) => [name, label]), key, (chosen) => { key = chosen; paint(); });
    choice(find("contest-range"), near === null ? [] : [["near", "Near the goal"], ["all", "All candidates"]], "near", (chosen) => { edge = chosen === "near" ? near : null; paint(); });
    figure(paint);
    box.on("plotly_click", (event) => {
      const point = event.points[0];
      const row = point.data.meta && point.data.meta[point.pointNumber];
      if (row) showRow(row);
    });
  });
}
