// Start every figure that the page has, and redraw them for dark, light and paper.
function repaint() {
  for (const paint of drawings) paint();
}

/** Give every plot the width of paper, or of its box again. */
function fit(width) {
  for (const box of all(".js-plotly-plot")) {
    Plotly.relayout(box, width ? { width: Math.round(box.closest(".pair") ? width / 2 - 20 : width), autosize: false } : { width: null, autosize: true });
  }
}

let opened = [];
/** Open what is folded, but for long lists of names; or fold it again. */
function unfold(isPaper) {
  if (isPaper) opened = all("details:not(.long)").filter((box) => !box.open);
  for (const box of opened) box.open = isPaper;
}

function chooseAnalysis(index) {
  analysis = data.analyses[index];
  for (const box of all("[data-analysis]")) box.hidden = box.dataset.analysis !== String(index);
  for (const update of listeners) update();
}

startContests();
startLitemp();
startAmp();
if (analysis) {
  startSensitivity();
  startMap();
  startRanges();
  startLayers();
  const select = document.querySelector("[data-analysis-choice]");
  if (select) select.addEventListener("change", () => chooseAnalysis(Number(select.value)));
}
for (const button of all("[data-show-all]")) {
  button.addEventListener("click", () => {
    button.closest("[data-analysis]").querySelector(".diagnoses").classList.add("all");
    button.parentNode.remove();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("beforeprint", () => { unfold(true); repaint(); fit(690); });
addEventListener("afterprint", () => { unfold(false); repaint(); fit(0); });
