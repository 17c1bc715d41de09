// All records of the store, filtered, and the downloads.

const RECORD_FIELDS = [["kind", "kind"], ["subject", "network"], ["weights", "weights"], ["site", "site"], ["operator", "encoder"], ["C", "C"], ["K", "K"], ["bits", "bits"], ["score", "score"], ["variant", "variant"], ["calibration", "calibration"], ["seed", "seed"]];
const SHOWN_FIGURES = ["accuracy", "test_accuracy", "lost", "normalized_mse", "code_perplexity", "dead_codes", "bytes", "operations", "bops", "first_order", "second_order"];

function recordsSection() {
  if (!tables.records.length) return;
  const root = section("records", "Records", "Every measurement of the store, as it was recorded.");
  const filters = filterBar(tables.records, RECORD_FIELDS, (left) => table.setRows(left));
  const names = Object.keys(page.records.columns);
  const figures = [...SHOWN_FIGURES.filter((name) => figureNames.includes(name)), ...figureNames.filter((name) => /^(energy|latency)/.test(name))];
  const table = dataTable({
    name: "Records", rows: tables.records,
    tools: [
      button("CSV", () => download("records.csv", csv(table.rows(), names), "text/csv")),
      button("JSON", () => download("records.json", JSON.stringify(table.rows(), null, 1), "application/json")),
    ],
    columns: [
      { key: "kind", title: "kind", cell: (row) => el("button", { type: "button", class: "link", onclick: () => recordDrawer(row) }, row.kind) },
      { key: "subject", title: "network" }, { key: "site", title: "site", words: true }, { key: "option", title: "operator", words: true }, { key: "variant", title: "variant" },
      { key: "calibration", title: "calibration" }, { key: "seed", title: "seed" }, { key: "score", title: "score" },
      ...figures.map((key) => ({ key, title: titleOf(key), format: (value) => (key.startsWith("energy") ? joules(value) : number(value)) })),
    ],
  });
  if (!filters.empty) root.append(filters.root);
  root.append(table.root);
}

function runsTable() {
  if (!page.runs.length) return;
  const root = section("runs", "Runs", null);
  root.append(dataTable({
    name: "Runs", rows: page.runs, search: page.runs.length > 8, page: 20, columns: [
      { key: "name", title: "run", words: true }, { key: "subject", title: "network" }, { key: "status", title: "status" }, { key: "seed", title: "seed" },
      { key: "seconds", title: "seconds", format: (value) => (isNumber(value) ? number(Math.round(value)) : "") },
      { title: "command", cell: (run) => commandCell({ command: run.command, label: run.name }) },
      { title: "plan", cell: (run) => (run.plan ? el("button", { type: "button", class: "link", "aria-label": "Download the plan of " + run.name, onclick: () => download("plan.json", JSON.stringify(run.plan, null, 2), "application/json") }, "plan.json") : "") },
      { title: "made with", words: true, cell: (run) => ["halut", "torch", "commit", "device"].filter((key) => run.versions[key]).map((key) => `${key} ${run.versions[key]}`).join(", ") },
    ],
  }).root);
}

function recordDrawer(row) {
  openDrawer(row.site || row.subject || "Record", (inside) => {
    inside.append(facts(Object.entries(row).filter(([key]) => key !== "command").map(([key, value]) => [titleOf(key), value])));
    if (row.command) inside.append(el("h3", null, "Command"), commandBox(row.command));
  });
}
