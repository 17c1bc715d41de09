// All records of the store, filtered, and the downloads.

const RECORD_FIELDS = [["kind", "kind"], ["subject", "network"], ["weights", "weights"], ["site", "site"], ["operator", "encoder"], ["C", "C"], ["K", "K"], ["bits", "bits"], ["score", "score"], ["variant", "variant"], ["calibration", "calibration"], ["seed", "seed"]];
const SHOWN_FIGURES = ["accuracy", "test_accuracy", "lost", "normalized_mse", "code_perplexity", "dead_codes", "bytes", "operations", "bops", "first_order", "second_order"];

function recordsSection() {
  if (!tables.records.length) return;
  const root = section("records", "Records", "Every measurement of the store, as it was recorded.");
  const filters = filterBar(tables.records, RECORD_FIELDS, (left) => table.setRows(left));
  const names = Object.keys(page.records.columns);
  const figures = [...SHOWN_FIGURES.filter((name) => figureNames.includes(name)), ...figureNames.filter((name) => /^(energy|latency)/.test(name))];
  const told = [
    ["subject", "network"], ["site", "site"], ["option", "operator"], ["variant", "variant"],
    ["calibration", "calibration"], ["seed", "seed"], ["score", "score"],
  ];
  const rows = tables.records;
  const shared = rows.length > 1 ? told.filter(([key]) => isSame(rows, key)) : []; // said once, not in a column
  const line = shared.map(([key, title]) => `${title} ${text(rows[0][key])}`).join(", ");
  if (line) root.append(el("p", { class: "hint" }, `All of them: ${line}.`));
  const table = dataTable({
    name: "Records", rows,
    tools: [
      button("CSV", () => download("records.csv", csv(table.rows(), names), "text/csv")),
      button("JSON", () => download("records.json", JSON.stringify(table.rows(), null, 1), "application/json")),
    ],
    columns: [
      { key: "kind", title: "kind", cell: (row) => el("button", { type: "button", class: "link", onclick: () => recordDrawer(row) }, row.kind) },
      ...told.filter((each) => !shared.includes(each)).map(([key, title]) => ({ key, title, words: key === "site" || key === "option" })),
      ...figures.map((key) => ({ key, title: titleOf(key), format: (value, row) => (isNotFinite(row, key) ? "not finite" : costText(key, value)) })),
    ],
  });
  if (!filters.empty) root.append(filters.root);
  root.append(table.root);
}

function isSame(rows, key) {
  const first = rows[0][key];
  return first !== null && first !== undefined && rows.every((row) => row[key] === first);
}

// A figure that was measured and is no number: NaN or infinite.
function isNotFinite(row, key) {
  return Boolean(row.not_finite) && row.not_finite.split(" ").includes(key);
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
