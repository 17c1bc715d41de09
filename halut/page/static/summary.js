// The headline and the front of accuracy over a cost.

const COST_TITLES = { bytes: "bytes of the network", operations: "operations", bops: "bit operations", weight_bits: "bits a weight", seconds: "time of the run", energy: "energy of a sample" };
const COST_UNITS = { energy: "J", latency: "s", seconds: "s" };

function isCost(name) {
  return !name.endsWith("_std") && (name in COST_TITLES || name.startsWith("latency"));
}

function accuracyOf(row) {
  return spread(row.accuracy, row.accuracy_std, 2);
}

function headlineCards(rows) {
  const ours = rows.find((row) => row.variant === "ours" && isNumber(row.accuracy));
  const exact = rows.find((row) => row.variant === "exact");
  const tuned = rows.find((row) => row.variant === "exact, fine-tuned");
  const cards = [];
  const card = (what, value, more) => cards.push(el("div", { class: "card" }, el("div", { class: "what" }, what), el("div", { class: "value" }, value), el("div", { class: "more" }, more)));
  if (ours) {
    card(`test accuracy, ${ours.label}`, [number(ours.accuracy, 2), el("small", null, isNumber(ours.accuracy_std) ? ` ± ${number(ours.accuracy_std, 2)} %` : " %")],
      exact ? `exact ${accuracyOf(exact)}${tuned ? `, fine-tuned ${accuracyOf(tuned)}` : ""}` : "");
    if (isNumber(ours.lost)) {
      card("points lost", [number(ours.lost, 2), el("small", null, isNumber(ours.lost_std) ? ` ± ${number(ours.lost_std, 2)}` : "")],
        ours.count > 1 ? `over ${counted(ours.count, "run")}` : "one run: no spread");
    }
    if (exact && isNumber(exact.bytes) && isNumber(ours.bytes)) {
      card("bytes", prefixed(ours.bytes), `${number(exact.bytes / ours.bytes, 2)} times smaller than ${prefixed(exact.bytes)}`);
    }
    if (exact && isNumber(exact.operations) && isNumber(ours.operations)) {
      card("operations a sample", prefixed(ours.operations), `exact ${prefixed(exact.operations)}`);
    }
  } else if (exact) {
    card("exact test accuracy", number(exact.accuracy, 2) + " %", "no replaced network was measured");
  }
  return el("div", { class: "cards" }, cards);
}

function commandCell(row) {
  if (!row.command) return "";
  return el("button", { type: "button", class: "link", "aria-label": "Copy the command of " + row.label, onclick: () => copyCommand(row.command) }, "copy");
}

function headlineSection() {
  if (!tables.headline.length) return;
  const energies = distinct(page.runs.filter((run) => run.energies), "energies").map((name) => " Energies of runs are those at " + name + ".");
  const root = section("headline", "Result", "Means over seeds with their sample standard deviation. Accuracies are of the test split, points lost against the exact network of the same run." + energies.join(""));
  for (const subject of distinct(tables.headline, "subject")) {
    const rows = tables.headline.filter((row) => row.subject === subject);
    root.append(el("h3", null, subject), headlineCards(rows));
    const extra = Object.keys(page.headline.columns).filter((name) => /^(energy$|latency)/.test(name) && !name.endsWith("_std"));
    root.append(dataTable({
      name: "Networks of " + subject, rows, search: rows.length > 8, page: 20,
      rowClass: (row) => (row.variant === "ours" ? "ours" : null),
      columns: [
        { key: "label", title: "network", words: true, cell: (row) => el("span", { title: row.options || null }, row.label) },
        { key: "accuracy", title: "test accuracy", format: (value, row) => accuracyOf(row) },
        { key: "lost", title: "points lost", format: (value, row) => spread(row.lost, row.lost_std, 2) },
        { key: "count", title: "runs" },
        { key: "bytes", title: "bytes" },
        { key: "operations", title: "operations", format: prefixed },
        { key: "bops", title: "bit operations", format: prefixed },
        ...extra.map((key) => ({ key, title: titleOf(key), format: (value) => costText(key, value) })),
        { title: "command", cell: commandCell },
      ],
    }).root);
    const best = rows.find((row) => row.variant === "ours" && row.command);
    if (best) root.append(el("p", { class: "hint" }, "The command of the best one, a click copies it:"), commandBox(best.command));
  }
}

function frontSection() {
  const costs = Object.keys(page.headline.columns).filter(isCost);
  const rows = tables.headline.filter((row) => isNumber(row.accuracy));
  if (!rows.length || !costs.length) return;
  const root = section("front", "Accuracy against cost", "Every configuration, by its operator, with the exact network and its integers in gray. The line joins the best accuracy at each cost; a click on a point copies the command that makes it.", "Cost");
  const subjects = distinct(rows, "subject");
  const state = { cost: costs.includes("bytes") ? "bytes" : costs[0], rows };
  const panel = el("div", { class: "panel" });
  const filters = filterBar(rows, [["subject", "network"], ["variant", "variant"], ["operator", "operator"]], (left) => { state.rows = left; draw(); });
  root.append(el("div", { class: "bar" }, switcher("Cost", costs.map((cost) => [cost, COST_TITLES[cost] || titleOf(cost)]), state.cost, (cost) => { state.cost = cost; draw(); })));
  if (!filters.empty) root.append(filters.root);
  root.append(panel);
  if (!hasCharts()) { panel.append(chartsMissing()); return; }
  const figure = chart(panel, "front", "Accuracy over a cost, a point for each configuration; the table above has the numbers", { click: (row) => copyCommand(row.command) });
  function draw() {
    figure.draw(state.rows.filter((row) => isNumber(row[state.cost])), (spec, shown) => {
      const text = JSON.stringify(spec).replaceAll('"field":"bytes","type":"quantitative","title":"bytes of the network"', `"field":"${state.cost}","type":"quantitative","title":"${COST_TITLES[state.cost] || titleOf(state.cost)}"`)
        .replaceAll("datum['bytes']", `datum['${state.cost}']`).replaceAll('"sort":[{"field":"bytes"}', `"sort":[{"field":"${state.cost}"}`);
      Object.assign(spec, JSON.parse(text));
      spec.params[0].value = COST_UNITS[state.cost] || "";
      const drawn = new Set(distinct(shown, "series"));
      const { color, shape } = spec.layer[2].encoding;
      for (const each of [spec.layer[1].encoding.color, color, shape]) each.legend.values = each.scale.domain.filter((name) => drawn.has(name));
    });
    panel.dataset.cost = state.cost;
  }
  if (subjects.length > 1) filters.choose("subject", subjects[0]); // accuracies of one data set
  else draw();
}

// Networks whose cost was counted before anything was learned.
function costSection() {
  const rows = tables.records.filter((row) => row.kind === "cost" && row.site === null);
  if (!rows.length) return;
  const root = section("plans", "Cost of plans", "Counted for one sample before anything is learned; energies are those of the named table of energies, latencies were measured here. A variant opens all that was counted.", "Plans");
  const names = figureNames.filter((name) => rows.some((row) => isNumber(row[name])));
  const first = ["bytes", "operations", "bops", "weight_bits", "energy", ...names.filter((name) => name.startsWith("latency"))].filter((name) => names.includes(name));
  root.append(dataTable({
    name: "Cost of plans", rows, page: 20, search: rows.length > 8,
    columns: [
      { key: "subject", title: "network" }, { key: "variant", title: "variant", cell: (row) => el("button", { type: "button", class: "link", onclick: () => recordDrawer(row) }, text(row.variant)) },
      ...first.map((key) => ({ key, title: titleOf(key), format: (value) => costText(key, value) })),
    ],
  }).root);
}
