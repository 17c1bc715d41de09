// Searches: plans under budgets with the predicted front, and trials with the best so far.

const MOST_PARAMETERS = 6; // with more, trials have them in one column
const KINDS = ["found", "uniform", "nearest", "exact", "INT8", "INT4", "tried", "random"]; // of plans, in the table's order
const PLAN_FIGURES = [["accuracy", "validation accuracy in %"], ["lost", "points lost"], ["rise", "rise of the loss"]];

function searchSection() {
  if (!page.searches.length) return;
  const root = section("search", "Search", "What may stand at each site: plans within budgets, predicted and measured, and trials. A click on a point copies the command that makes it.", "Search");
  for (const search of page.searches) {
    const part = el("div", { class: "search", "data-search": search.name }, el("h3", null, `${search.name}: ${search.kind === "budget" ? "plans within budgets" : "trials"}`), commandBox(search.command));
    root.append(part);
    (search.kind === "budget" ? budgetSearch : trialSearch)(part, search);
  }
}

// A heading, a bar of tools, and a panel with a chart of these rows, where there are any.
function chartPanel(root, title, tools, name, label, click) {
  const heading = el("h4", null, title);
  const panel = el("div", { class: "panel" }, heading);
  root.append(el("div", { class: "bar" }, tools), panel);
  if (!hasCharts()) panel.append(chartsMissing());
  return { heading, figure: chart(panel, name, label, click ? { click: (row) => copyCommand(row.command) } : {}) };
}

function keepDrawnKinds(spec, rows) {
  const drawn = new Set(distinct(rows, "kind"));
  for (const channel of ["color", "shape"]) {
    const { scale, legend } = spec.layer[1].encoding[channel];
    legend.values = scale.domain.filter((kind) => drawn.has(kind));
  }
}

// Another cost along the x axis of a specification that was written for bytes.
function retargetCost(spec, cost, { title, unit }) {
  const words = JSON.stringify(spec).replaceAll("datum['bytes']", `datum['${cost}']`);
  Object.assign(spec, JSON.parse(words));
  retarget(spec, "bytes", cost, "bytes of the network", title);
  spec.params[0].value = unit;
}

function budgetSearch(root, search) {
  const plans = rowsOf(search.plans), fronts = rowsOf(search.fronts), budgets = rowsOf(search.budgets);
  const costs = Object.keys(search.resources);
  root.append(dataTable({
    name: "Budgets of " + search.name, rows: budgets, search: false, page: 20,
    columns: [
      { key: "label", title: "budget", words: true, cell: (row) => el("span", null, row.label, row.missing ? el("div", { class: "sub" }, row.missing) : null) },
      ...costs.map((key) => ({ key, title: search.resources[key].title, format: (value) => costText(key, value) })),
      { key: "accuracy", title: "validation accuracy", format: (value) => number(value, 2) }, { key: "lost", title: "points lost", format: (value) => number(value, 2) },
      { key: "uniform", title: "one option everywhere", words: true }, { key: "uniform_lost", title: "loses", format: (value) => number(value, 2) },
      { key: "random", title: "random plans" }, { key: "random_lost", title: "the best loses", format: (value) => number(value, 2) },
      { key: "rank_correlation", title: "rank correlation", format: (value) => number(value, 2) },
      { key: "val_accuracy", title: "its run: validation", format: (value) => number(value, 2) }, { key: "test_accuracy", title: "its run: test", format: (value) => number(value, 2) },
      { key: "uniform_val_accuracy", title: "run of one option: validation", format: (value) => number(value, 2) }, { key: "uniform_test_accuracy", title: "run of one option: test", format: (value) => number(value, 2) },
      { title: "command", cell: commandCell },
    ],
  }).root, el("p", { class: "hint" }, `Measured on ${counted(search.samples, "validation sample")}, without training; runs are on all of them, as their commands make them.`));
  planChart(root, search, plans, fronts);
  predictionChart(root, search, plans, budgets);
  const sorted = KINDS.flatMap((kind) => plans.filter((row) => row.kind === kind));
  const filters = filterBar(sorted, [["kind", "kind"], ["budget", "budget"]], (left) => table.setRows(left));
  const table = dataTable({
    name: "Plans of " + search.name, rows: sorted, page: 10,
    columns: [
      { key: "label", title: "plan", words: true }, { key: "operators", title: "sites", words: true },
      ...["accuracy", "lost"].map((key) => ({ key, title: titleOf(key), format: (value) => number(value, 2) })),
      { key: search.figure, title: `measured ${figureTitle(search.figure)}` }, { key: "predicted", title: "predicted" }, { key: "corrected", title: "predicted, corrected" },
      ...costs.map((key) => ({ key, title: search.resources[key].title, format: (value) => costText(key, value) })),
      { title: "command", cell: commandCell },
    ],
  });
  root.append(el("h4", null, "Measured plans"), filters.root, table.root);
}

function figureTitle(figure) {
  return PLAN_FIGURES.find(([key]) => key === figure)[1];
}

function planChart(root, search, plans, fronts) {
  const costs = Object.keys(search.resources);
  const state = { cost: costs[0], figure: "accuracy" };
  const tools = [
    costs.length > 1 ? switcher("Cost of " + search.name, costs.map((cost) => [cost, search.resources[cost].title]), state.cost, (cost) => { state.cost = cost; draw(); }) : null,
    switcher("Figure of " + search.name, PLAN_FIGURES, state.figure, (figure) => { state.figure = figure; draw(); }),
  ];
  const { figure } = chartPanel(root, "Measured plans, and the predicted front as a line", tools, "search-plans", `${search.name}: a point for each measured plan over its cost, and the predicted front as a line; the table below has the numbers`, true);
  function draw() {
    const { cost, figure: y } = state;
    const rows = [...fronts.filter((row) => row.resource === cost), ...plans].filter((row) => isNumber(row[cost]) && isNumber(row[y]));
    figure.draw(rows, (spec, shown) => {
      retargetCost(spec, cost, search.resources[cost]);
      for (const layer of spec.layer) { layer.encoding.y.field = y; layer.encoding.y.title = figureTitle(y); }
      spec.transform[0].filter = `datum['${cost}'] > 0`;
      keepDrawnKinds(spec, shown);
    });
  }
  draw();
}

function predictionChart(root, search, plans, budgets) {
  const known = plans.filter((row) => isNumber(row.predicted));
  if (!known.length) return;
  const state = { budget: budgets[0].label, by: "predicted" };
  const corrected = known.some((row) => isNumber(row.corrected));
  const tools = [
    budgets.length > 1 ? switcher("Budget of " + search.name, budgets.map((row) => [row.label, row.label]), state.budget, (budget) => { state.budget = budget; draw(); }) : null,
    corrected ? switcher("Prediction of " + search.name, [["predicted", "by single sites"], ["corrected", "corrected by what was measured"]], state.by, (by) => { state.by = by; draw(); }) : null,
  ];
  const { heading, figure } = chartPanel(root, "", tools, "search-predictions", `${search.name}: what plans were measured to lose over what was predicted; the table below has the numbers`, true);
  function draw() {
    const budget = budgets.find((row) => row.label === state.budget);
    heading.textContent = predictedTitle(budget, state.by);
    const rows = known.filter((row) => row.budget === state.budget && isNumber(row[state.by])).map((row) => ({ ...row, x: row[state.by] }));
    figure.draw(rows, (spec, shown) => {
      const words = JSON.stringify(spec).replaceAll('"rise"', `"${search.figure}"`).replaceAll("_rise", `_${search.figure}`).replaceAll("'rise'", `'${search.figure}'`).replaceAll("rise of the loss", figureTitle(search.figure));
      Object.assign(spec, JSON.parse(words));
      keepDrawnKinds(spec, shown);
    });
  }
  draw();
}

function predictedTitle(budget, by) {
  const correlation = by === "predicted" ? budget.rank_correlation : budget.rank_correlation_corrected;
  const of = budget.random ? `${counted(budget.random, "random plan")}: rank correlation ${isNumber(correlation) ? number(correlation, 2) : "unknown"}` : "no random plans (--random N)";
  return `Predicted against measured, ${budget.label}, ${of}`;
}

function trialSearch(root, search) {
  const trials = rowsOf(search.trials), chosen = rowsOf(search.chosen), curves = rowsOf(search.curves);
  const states = distinct(trials, "state").map((state) => `${number(trials.filter((row) => row.state === state).length)} ${state}`);
  root.append(el("p", { class: "hint" }, `${counted(trials.length, "trial")} of ${number(search.total)} in ${search.studies === 1 ? "1 study" : `${search.studies} studies`}: ${states.join(", ") || "none has ended"}.`));
  if (chosen.length) {
    root.append(el("h4", null, "Chosen by validation; the test split was read for these alone"), dataTable({
      name: "Chosen of " + search.name, rows: chosen, search: chosen.length > 8, page: 20,
      columns: [
        { key: "study", title: "study", words: true }, { key: "number", title: "trial" },
        { key: "val_accuracy", title: "validation accuracy", format: (value) => number(value, 2) }, { key: "test_accuracy", title: "test accuracy", format: (value) => number(value, 2) },
        { key: "bytes", title: "bytes" }, { key: "parameters", title: "parameters", words: true, cell: (row) => parametersOf(row) }, { title: "command", cell: commandCell },
      ],
    }).root);
  }
  if (curves.length) {
    const { figure } = chartPanel(root, "Best so far: means over seeds, bands from the worst to the best", [], "search-progress", `${search.name}: the best objective after each number of trials`, false);
    figure.draw(curves, (spec) => { for (const layer of spec.layer) layer.encoding.y.title = `best ${search.objective}`; });
  }
  if (Object.keys(search.minimize).length && trials.some((row) => isNumber(row.value))) trialScatter(root, search, trials);
  trialTable(root, search, trials);
}

function trialScatter(root, search, trials) {
  const costs = Object.keys(search.minimize);
  const state = { cost: costs[0] };
  const tools = costs.length > 1 ? switcher("Cost of " + search.name, costs.map((cost) => [cost, search.minimize[cost].title]), state.cost, (cost) => { state.cost = cost; draw(); }) : null;
  const { figure } = chartPanel(root, "Trials and their front", tools, "search-trials", `${search.name}: a point for each trial over its cost; the table below has the numbers`, true);
  function draw() {
    figure.draw(trials.filter((row) => isNumber(row.value) && isNumber(row[state.cost])), (spec) => {
      retargetCost(spec, state.cost, search.minimize[state.cost]);
      for (const layer of spec.layer) layer.encoding.y.title = search.objective;
    });
  }
  draw();
}

function trialTable(root, search, trials) {
  const parameters = Object.entries(search.parameters);
  const filters = filterBar(trials, [["series", "curve and sampler"], ["seed", "seed"], ["state", "state"], ["best", "best"]], (left) => table.setRows(left));
  const costs = ["bytes", ...Object.keys(search.minimize)].filter((key, index, all) => all.indexOf(key) === index);
  const table = dataTable({
    name: "Trials of " + search.name, rows: trials, page: 20,
    tools: [button("CSV", () => download("trials.csv", csv(table.rows(), Object.keys(search.trials.columns)), "text/csv"))],
    rowClass: (row) => (row.best ? "ours" : null),
    columns: [
      { key: "study", title: "study", words: true, also: "parameters" }, { key: "number", title: "trial", cell: (row) => el("button", { type: "button", class: "link", "aria-label": row.label, onclick: () => trialDrawer(search, row) }, number(row.number)) },
      { key: "state", title: "state", words: true, also: "reason", cell: (row) => el("span", null, row.state, row.reason ? el("div", { class: "sub" }, row.reason) : null) },
      { key: "value", title: search.objective, format: (value) => number(value, 2) },
      ...(parameters.length > MOST_PARAMETERS ? [{ key: "parameters", title: "parameters", words: true, cell: parametersOf }] : parameters.map(([key, title]) => ({ key, title }))),
      ...costs.map((key) => ({ key, title: titleOf(key), format: (value) => costText(key, value) })),
      { key: "seconds", title: "seconds", format: (value) => number(value, 1) }, { title: "command", cell: commandCell },
    ],
  });
  root.append(el("h4", null, "Trials"), el("p", { class: "hint" }, "In bold the best of each study; a number opens all of its trial."));
  if (!filters.empty) root.append(filters.root);
  root.append(table.root);
}

const MOST_LETTERS = 90; // of parameters in a table; a trial's number opens them all

function parametersOf(row) {
  const words = row.parameters || "";
  return words.length > MOST_LETTERS ? words.slice(0, MOST_LETTERS) + "…" : words;
}

function trialDrawer(search, row) {
  openDrawer(row.label, (inside) => {
    const told = Object.entries(row).filter(([key]) => !["label", "command", "parameters", "best"].includes(key));
    inside.append(facts(told.map(([key, value]) => [search.parameters[key] || (key === "value" ? search.objective : titleOf(key)), value])));
    if (row.command) inside.append(el("h3", null, "Command"), commandBox(row.command));
  });
}
