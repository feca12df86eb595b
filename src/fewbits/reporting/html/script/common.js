// What all figures share: the data, the colours, the form of numbers, and one way to draw.
const holder = document.getElementById("data");
const data = holder ? JSON.parse(holder.textContent) : { analyses: [], litemps: [], amps: [], contests: [] };
const byId = (id) => document.getElementById(id);
const all = (selector) => Array.from(document.querySelectorAll(selector));
let analysis = data.analyses[data.analyses.length - 1];

const SLOTS = ["w8a8", "w8a16", "w16a16", "fp16", "w4a8", "w4a16", "w4a4"];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x", "star", "cross"];

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** Return the place of a precision in the palette: 0 for float, the well-known first, others in order of appearance. */
function slot(precision) {
  if (precision === "fp32" || precision === "float" || precision === "") return 0;
  let place = SLOTS.indexOf(precision);
  if (place < 0) place = SLOTS.push(precision) - 1;
  return (place % 7) + 1;
}
const precisionColor = (precision) => color("p" + slot(precision));
const precisionSymbol = (precision) => SYMBOLS[(slot(precision) + 6) % 7];

/** Return a number as people read it: two decimals, or three significant digits. */
function number(value, unit) {
  if (value === null || value === undefined || !isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = value === 0 || (size >= 0.01 && size < 1e5) ? value.toFixed(2) : Number(value.toPrecision(3)).toString();
  return text.replace("-", "−") + (unit ? "\u00a0" + unit : "");
}
const times = (value) => Number(value.toPrecision(3)) + " times";

/** Return decibels as text; the page's data holds them in tenths. */
const decibels = (tenths) => (tenths === null || tenths === undefined ? "–" : (tenths / 10).toFixed(1).replace("-", "−"));
const db = (tenths) => (tenths === null || tenths === undefined ? "–" : decibels(tenths) + "\u00a0dB");
const inDb = (tenths) => tenths.map((value) => (value === null ? null : value / 10));

/** Return the name that each character of `codes` stands for. */
const spelled = (column) => Array.from(column.codes, (code) => column.names[code.charCodeAt(0) - 48]);
for (const one of data.analyses) {
  one.tensors.role = spelled(one.tensors.role);
  for (const profile of one.profiles) profile.precision = spelled(profile);
}

function count(value) {
  if (value === null || value === undefined) return "–";
  for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= limit) return (value / limit).toFixed(1) + " " + unit;
  }
  return String(value);
}

/** Return text that plotly prints as it is: plotly reads a few tags. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** Return a long name in lines of at most 60 characters, for hover boxes. */
function wrapped(text) {
  return (String(text).match(/[\s\S]{1,60}/g) || [""]).map(plain).join("<br>");
}

/** Return fractions of 0 to 1 from base64 of little-endian 16-bit integers. */
function unpack(text) {
  const raw = atob(text);
  const values = new Float64Array(raw.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = (raw.charCodeAt(2 * i) + 256 * raw.charCodeAt(2 * i + 1)) / 65535;
  return values;
}

/** Return the value below which a share of the numbers lies; nulls are left out. */
function quantile(values, share) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : null;
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Fill a group of buttons of which one is pressed; `chosen(value)` is called when that changes. */
function choice(box, options, value, chosen) {
  box.replaceChildren(...options.map(([key, label]) => {
    const button = element("button", label);
    button.type = "button";
    button.setAttribute("aria-pressed", String(key === value));
    button.addEventListener("click", () => {
      for (const other of box.children) other.setAttribute("aria-pressed", String(other === button));
      chosen(key);
    });
    return button;
  }));
  box.hidden = options.length < 2;
}

function axis(title, more) {
  return Object.assign({
    title: { text: title, standoff: 8 }, gridcolor: color("line"), zerolinecolor: color("line"), linecolor: color("line"),
    automargin: true, ticks: "outside", tickcolor: color("line"), ticklen: 4,
  }, more);
}

/** Draw into a box in the page's colours; drawing again replaces. */
function draw(box, traces, layout) {
  const base = {
    paper_bgcolor: color("paper"), plot_bgcolor: color("paper"),
    font: { family: color("sans"), size: 12.5, color: color("soft") },
    margin: { l: 56, r: 16, t: 34, b: 44 }, hovermode: "closest",
    hoverlabel: { bgcolor: color("paper"), bordercolor: color("line"), align: "left", namelength: 0, font: { family: color("sans"), size: 12.5, color: color("ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", itemsizing: "constant", font: { color: color("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("ink") },
  };
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
  return Plotly.react(box, traces, Object.assign(base, layout), config);
}

const drawings = [];
/** Register a figure that is drawn now, when the colours change, and for paper. */
function figure(paint) {
  drawings.push(paint);
  paint();
}

const listeners = [];
/** Register what follows the choice of an analysis. */
function onAnalysis(update) {
  listeners.push(update);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest ? event.target.closest(".copy") : null;
  if (!button) return;
  const code = button.parentNode.querySelector("code");
  const said = (word) => {
    button.textContent = word;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const selected = () => {
    getSelection().selectAllChildren(code);
    said(document.execCommand("copy") ? "Copied" : "Selected");
  };
  if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(() => said("Copied"), selected);
  else selected();
});
