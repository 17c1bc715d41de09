// One row per site of a run, with its drawer; chosen ones become rules of a policy.

function yamlScalar(value) {
  if (value === null) return "null";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (Array.isArray(value)) return "[" + value.map(yamlScalar).join(", ") + "]";
  if (typeof value === "object") return "{" + Object.entries(value).map(([key, each]) => `${key}: ${yamlScalar(each)}`).join(", ") + "}";
  return JSON.stringify(value); // a JSON string is one of YAML
}

// The site's name as the pattern of a rule that matches it alone.
function pattern(name) {
  return name.replace(/[[*?]/g, (sign) => `[${sign}]`);
}

function yamlRule(site) {
  const lines = [`- name: ${yamlScalar(pattern(site.name))}`, `  operator: ${yamlScalar(site.operator)}`];
  if (site.operator === "keep") {
    if (site.reason) lines.push(`  reason: ${yamlScalar(site.reason)}`);
  } else {
    const options = Object.entries(site.options || {}).filter(([, value]) => value !== null);
    lines.push("  options:", ...options.map(([key, value]) => `    ${key}: ${yamlScalar(value)}`));
  }
  return lines.join("\n") + "\n";
}

function sitesSection() {
  const runs = page.runs.filter((run) => run.sites.length);
  if (!runs.length) return;
  const root = section("sites", "Sites", "Every product of the network that can be replaced, and what became of it. A name opens its codes, trees, prototypes and errors.");
  const holder = el("div");
  const show = (run) => {
    const measured = new Map();
    for (const row of tables.records) {
      if (row.kind !== "sensitivity" || row.site === null || row.model !== run.model || !isNumber(row.lost)) continue;
      const sum = measured.get(row.site) || [0, 0];
      measured.set(row.site, [sum[0] + row.lost, sum[1] + 1]);
    }
    const rows = run.sites.map((site) => {
      const sum = measured.get(site.name);
      return { ...site, lost_alone: isNumber(site.lost_alone) ? site.lost_alone : sum ? sum[0] / sum[1] : null };
    });
    const left = { rows };
    const filters = filterBar(rows, [["operator", "operator"], ["kind", "kind"], ["stage", "stage"], ["K", "K"], ["bits", "bits"]], (shown) => { left.rows = shown; table.setRows(shown); });
    const table = dataTable({
      name: "Sites of " + run.name, rows, select: (row) => row.name,
      tools: [
        button("Copy as YAML", () => {
          const sites = table.chosen();
          if (!sites.length) say("Pick sites first");
          else copyText(sites.map(yamlRule).join(""), `${sites.length} rule${sites.length > 1 ? "s" : ""}`);
        }),
        button("CSV", () => download(`${run.name.replace(/\W+/g, "-")}-sites.csv`, csv(rows, Object.keys(rows[0]).filter((key) => key !== "options")), "text/csv")),
        run.plan ? button("Plan", () => download("plan.json", JSON.stringify(run.plan, null, 2), "application/json")) : null,
      ],
      columns: [
        { key: "name", title: "site", words: true, cell: (row) => el("button", { type: "button", class: "link", onclick: () => siteDrawer(run, row) }, row.name) },
        { key: "operator", title: "operator" }, { key: "C", title: "C" }, { key: "V", title: "V" }, { key: "K", title: "K" }, { key: "bits", title: "bits" },
        { key: "bytes", title: "bytes" }, { key: "normalized_mse", title: "error", format: (value) => number(value) },
        { key: "lost_alone", title: "lost alone", format: (value) => number(value, 2) },
        { key: "code_perplexity", title: "perplexity", format: (value) => number(value, 2) }, { key: "dead_prototypes", title: "dead codes" },
        { key: "clipping_rate", title: "clipping", format: (value) => number(value) }, { key: "reason", title: "reason kept", words: true },
      ],
    });
    holder.replaceChildren(...(filters.empty ? [] : [filters.root]), table.root);
    const missing = Object.entries(run.unsupported);
    if (missing.length) holder.append(el("p", { class: "hint" }, "Layers that multiply but are no sites: " + missing.map(([name, reason]) => `${name} (${reason})`).join("; ")));
  };
  if (runs.length > 1) {
    const select = el("select", { "data-field": "run-of-sites" }, runs.map((run, index) => el("option", { value: String(index) }, run.name)));
    select.addEventListener("change", () => show(runs[Number(select.value)]));
    root.append(el("div", { class: "bar" }, el("label", null, "run", select)));
  }
  root.append(holder);
  show(runs[0]);
}
