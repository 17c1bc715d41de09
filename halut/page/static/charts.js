// Vega-Lite charts: drawn one after the other once the page stands, again when the theme changes.

const charts = [];
const waiting = [];
let library = null;
let drawing = false;

function hasCharts() {
  return Boolean(page.charts && page.charts.front);
}

function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// Vega and Vega-Embed lie in the page packed, gzip in base64, until the first chart is drawn.
async function loadLibrary() {
  const bytes = Uint8Array.from(atob(document.getElementById("chart-library").textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = "(() => {" + await new Response(stream).text() + "\n})();";
  document.head.append(script);
}

// A chart of page.charts[name] in `parent`; `label` tells what it shows. draw(rows, change) fills
// it: change(spec) may alter the specification.
function chart(parent, name, label, options) {
  const box = el("div", { class: "chart", role: "figure", "aria-label": label, "data-chart": name });
  parent.append(box);
  const self = { box, name, rows: [], change: null, options: options || {}, result: null };
  charts.push(self);
  self.draw = (rows, change) => {
    self.rows = rows;
    if (change) self.change = change;
    if (!waiting.includes(self)) waiting.push(self);
    drawNext();
  };
  return self;
}

function drawNext() {
  if (drawing || !waiting.length || !hasCharts()) return;
  drawing = true;
  const run = async () => {
    const self = waiting.shift();
    try {
      library = library || loadLibrary();
      await library;
      await render(self);
    } catch (error) {
      console.error(error);
      self.box.replaceChildren(el("p", { class: "hint" }, `This browser could not draw the chart: ${error.message}`));
    } finally { drawing = false; }
    drawNext();
  };
  if (window.requestIdleCallback) requestIdleCallback(run, { timeout: 1500 });
  else setTimeout(run, 30);
}

async function render(self) {
  const spec = structuredClone(page.charts[self.name]);
  if (self.change) self.change(spec, self.rows);
  const narrow = self.box.clientWidth < 480;
  spec.config = structuredClone(page.themes[theme()]);
  if (narrow) {
    spec.config.axis.labelLimit = 96;
    spec.config.legend.columns = 1;
    spec.config.legend.labelLimit = 220;
  }
  spec.data = { name: "rows", values: self.rows };
  if (self.result) self.result.finalize();
  self.box.replaceChildren();
  self.box.dataset.rows = String(self.rows.length);
  if (!self.rows.length) {
    self.box.append(el("p", { class: "hint" }, "Nothing to draw with these filters."));
    return;
  }
  self.result = await window.vegaEmbed(self.box, spec, {
    renderer: "svg",
    mode: "vega-lite",
    tooltip: { theme: theme() === "dark" ? "dark" : "light" },
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: self.name,
  });
  if (self.options.click) {
    self.result.view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.label) self.options.click(item.datum);
    });
  }
  self.box.dataset.drawn = theme();
}

function redrawCharts() {
  for (const self of charts) if (self.rows.length && !waiting.includes(self)) waiting.push(self);
  drawNext();
}

function chartsMissing() {
  return el("p", { class: "hint" }, "Charts need vl-convert-python when the page is written: pip install 'halut[page]'.");
}
