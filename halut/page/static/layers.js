// Sites replaced on their own, the heat map of C and K, and convergence over calibration samples.

const MOST_SITES = 40, MOST_OPTIONS = 8; // of more options than colors the chart has dots
const LAYER_FIELDS = [["subject", "network"], ["site", "site"], ["operator", "encoder"], ["C", "C"], ["K", "K"], ["bits", "bits"], ["score", "score"], ["option", "option"]];

function hasSizes(row) {
  return isNumber(row.C) && isNumber(row.K);
}

// The sites that lose most, in the network's own order.
function worstSites(rows, figure, count) {
  const sums = new Map();
  for (const row of rows) {
    const sum = sums.get(row.site) || [0, 0];
    sums.set(row.site, [sum[0] + row[figure], sum[1] + 1]);
  }
  const worst = [...sums].sort((a, b) => b[1][0] / b[1][1] - a[1][0] / a[1][1]).slice(0, count);
  return new Set(worst.map(([site]) => site));
}

function layersSection() {
  const all = tables.records.filter((row) => row.kind === "sensitivity" && row.site !== null);
  if (!all.length) return;
  const figures = figureNames.filter((name) => all.some((row) => isNumber(row[name])));
  const root = section("layers", "Each layer alone", "One site replaced, everything else exact and nothing retrained: what each choice costs where.", "Layers");
  const state = { figure: figures.includes("lost") ? "lost" : figures[0], rows: all };
  const select = el("select", { "data-figure": "layers" }, figures.map((name) => el("option", { value: name }, titleOf(name))));
  select.value = state.figure;
  select.addEventListener("change", () => { state.figure = select.value; draw(); });
  const filters = filterBar(all, LAYER_FIELDS, (left) => { state.rows = left; draw(); });
  filters.root.prepend(el("label", null, "figure", select));
  const count = el("p", { class: "hint", "data-count": "layers" });
  const tall = el("div", { class: "panel tall", tabindex: "0", role: "region", "aria-label": "Each site" });
  const squares = el("div", { class: "columns" });
  const averaged = el("p", { class: "hint" });
  root.append(filters.root, count, tall);
  if (!hasCharts()) tall.append(chartsMissing());
  const bars = chart(tall, "bars", "Every site replaced on its own, a mark for each option; the records below have the numbers");
  const heats = distinct(all.filter(hasSizes), "family").map((family) => {
    const panel = el("div", { class: "panel" }, el("h4", null, family));
    squares.append(panel);
    return { family, panel, chart: chart(panel, "heat", `${family}: mean over sites by the number of codebooks and of prototypes`) };
  });
  if (heats.length && hasCharts()) root.append(el("h3", null, "Codebooks and prototypes"), averaged, squares);

  function draw() {
    const figure = state.figure, title = titleOf(figure);
    const rows = state.rows.filter((row) => isNumber(row[figure]));
    const sites = distinct(rows, "site");
    const kept = sites.length > MOST_SITES ? worstSites(rows, figure, MOST_SITES) : null;
    const empty = state.rows.length - rows.length;
    count.textContent = `${counted(rows.length, "record")} of ${counted(sites.length, "site")}.`
      + (empty ? ` ${number(empty)} without this figure.` : "")
      + (kept ? ` Shown are the ${MOST_SITES} sites with the largest mean; filter by site to see another.` : "");
    const alter = (spec) => { retarget(spec, "lost", figure, "points lost", title); };
    bars.draw(kept ? rows.filter((row) => kept.has(row.site)) : rows, (spec, shown) => {
      const options = distinct(shown, "option").length, many = options > MOST_OPTIONS;
      if (many) Object.assign(spec, structuredClone(page.charts.dots));
      alter(spec);
      const step = options > 4 ? 9 : 14; // as a number: Vega-Lite warns of steps beside a fitted width
      spec.height = distinct(shown, "site").length * (many ? 30 : (options + 1) * step);
    });
    drawHeats(rows.filter(hasSizes), alter);
  }
  function drawHeats(rows, alter) {
    const single = []; // a map of one cell says no more than the records
    for (const { family, panel, chart: heat } of heats) {
      const own = rows.filter((row) => row.family === family);
      const pairs = new Set(own.map((row) => `${row.C} ${row.K}`));
      if (pairs.size === 1) single.push(`${family} (C=${own[0].C}, K=${own[0].K})`);
      panel.hidden = pairs.size < 2;
      heat.draw(panel.hidden ? [] : own, (spec, shown) => { alter(spec); spec.height = distinct(shown, "C").length * 40; });
    }
    averaged.textContent = `A map for each encoder: the mean over the ${counted(distinct(rows, "site").length, "site")} and ${counted(distinct(rows, "seed").length, "seed")} that the filters leave.`
      + (single.length ? ` No map of one pair of C and K: ${single.join(", ")}.` : "");
  }

  root.append(el("h3", null, "Options of each site"), el("p", { class: "hint" }, "Means over seeds and draws; rows that are picked are copied as rules of a policy. What a site cannot have stands last, with its reason."));
  const table = optionsTable(all);
  root.append(table.root);
  const subjects = distinct(all, "subject");
  if (subjects.length > 1) filters.choose("subject", subjects[0]); // sites of one network
  else draw();
}

const OPTION_FIGURES = ["lost", "normalized_mse", "code_perplexity", "dead_codes", "bytes", "operations", "second_order"];

function optionsTable(records) {
  const groups = new Map();
  for (const row of records) {
    const key = [row.subject, row.site, row.option].join("\n");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const rows = [...groups.values()].map((members) => {
    const { subject, site, site_kind, operator, option, C, V, K, bits, asked, reason } = members[0];
    const row = { subject, site, site_kind, operator, option, C, V, K, bits, asked, reason, count: members.length };
    for (const figure of OPTION_FIGURES) {
      const values = members.map((member) => member[figure]).filter(isNumber);
      row[figure] = values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
    }
    return row;
  });
  rows.sort((a, b) => Boolean(a.reason) - Boolean(b.reason));
  const several = distinct(rows, "subject").length > 1;
  const table = dataTable({
    name: "Options of each site", rows, page: 20, select: (row) => `${row.site} ${row.option}`,
    tools: [button("Copy as YAML", () => copyRules(table.chosen().filter((row) => !row.reason).map((row) => ({ name: row.site, kind: row.site_kind, operator: row.operator, options: JSON.parse(row.asked) }))))],
    columns: [
      ...(several ? [{ key: "subject", title: "network" }] : []),
      { key: "site", title: "site", words: true }, { key: "option", title: "operator", words: true, also: "reason", cell: (row) => el("span", null, row.option, row.reason ? el("div", { class: "sub" }, row.reason) : null) },
      { key: "C", title: "C" }, { key: "V", title: "V" }, { key: "K", title: "K" }, { key: "bits", title: "bits" },
      ...OPTION_FIGURES.map((key) => ({ key, title: titleOf(key), format: (value) => number(value) })),
      { key: "count", title: "records" },
    ],
  });
  return table;
}

// Another figure in a specification that was written for one.
function retarget(spec, field, figure, title, figureTitle) {
  const visit = (node) => {
    if (Array.isArray(node)) { node.forEach(visit); return; }
    if (node === null || typeof node !== "object") return;
    if (node.field === field) { node.field = figure; if (node.title === title || node.title === field) node.title = figureTitle; }
    Object.values(node).forEach(visit);
  };
  for (const part of ["transform", "encoding", "layer"]) visit(spec[part] || {});
  return spec;
}

function convergenceSection() {
  const all = tables.records.filter((row) => row.kind === "convergence" && isNumber(row.calibration));
  if (!all.length) return;
  for (const row of all) row.series = [row.site, row.option].filter(Boolean).join(" ");
  const figures = figureNames.filter((name) => all.some((row) => isNumber(row[name])));
  const root = section("calibration", "How many samples to calibrate on", "Lines are means over draws, bands their standard deviation.", "Calibration");
  const state = { figure: figures.includes("accuracy") ? "accuracy" : figures[0], rows: all };
  const select = el("select", { "data-figure": "calibration" }, figures.map((name) => el("option", { value: name }, titleOf(name))));
  select.value = state.figure;
  select.addEventListener("change", () => { state.figure = select.value; draw(); });
  const filters = filterBar(all, [...LAYER_FIELDS], (left) => { state.rows = left; draw(); });
  filters.root.prepend(el("label", null, "figure", select));
  const panel = el("div", { class: "panel" });
  root.append(filters.root, panel);
  if (!hasCharts()) { panel.append(chartsMissing()); return; }
  const figure = chart(panel, "convergence", "A figure over the number of calibration samples; the records below have the numbers");
  function draw() {
    figure.draw(state.rows.filter((row) => isNumber(row[state.figure])), (spec) => {
      retarget(spec, "accuracy", state.figure, "accuracy in %", titleOf(state.figure));
    });
  }
  draw();
}
