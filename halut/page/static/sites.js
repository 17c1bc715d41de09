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
  if (site.kind === "attention") lines.push("  kind: attention"); // no rule means it without
  if (site.operator === "keep") {
    if (site.reason) lines.push(`  reason: ${yamlScalar(site.reason)}`);
  } else {
    const options = Object.entries(site.options || {}).filter(([, value]) => value !== null);
    if (options.length) lines.push("  options:", ...options.map(([key, value]) => `    ${key}: ${yamlScalar(value)}`));
  }
  return lines.join("\n") + "\n";
}

function copyRules(sites) {
  if (!sites.length) say("Pick sites first");
  else copyText(sites.map(yamlRule).join(""), counted(sites.length, "rule"));
}

function sitesSection() {
  const runs = page.runs.filter((run) => run.sites.length);
  if (!runs.length) return;
  const root = section("sites", "Sites", "Every product of the network that can be replaced, and what became of it. A name opens its codes, trees, prototypes and errors.");
  const holder = el("div");
  const show = (run) => {
    const measured = new Map(); // of the same operator at the same site, by its sizes
    const optionOf = (row, site) => [site, row.operator, row.C, row.K, row.bits].join("\n");
    for (const row of tables.records) {
      if (row.kind !== "sensitivity" || row.model !== run.model || row.data !== run.data || !isNumber(row.lost)) continue;
      const sum = measured.get(optionOf(row, row.site)) || [0, 0];
      measured.set(optionOf(row, row.site), [sum[0] + row.lost, sum[1] + 1]);
    }
    const rows = run.sites.map((site) => {
      const sum = measured.get(optionOf(site, site.name));
      return { ...site, lost_alone: isNumber(site.lost_alone) ? site.lost_alone : sum ? sum[0] / sum[1] : null };
    });
    const left = { rows };
    const filters = filterBar(rows, [["operator", "operator"], ["kind", "kind"], ["stage", "stage"], ["K", "K"], ["bits", "bits"]], (shown) => { left.rows = shown; table.setRows(shown); });
    const table = dataTable({
      name: "Sites of " + run.name, rows, select: (row) => row.name,
      tools: [
        button("Copy as YAML", () => copyRules(table.chosen())),
        button("CSV", () => download(`${run.name.replace(/\W+/g, "-")}-sites.csv`, csv(rows, Object.keys(rows[0]).filter((key) => key !== "options")), "text/csv")),
        run.plan ? button("Plan", () => download("plan.json", JSON.stringify(run.plan, null, 2), "application/json")) : null,
      ],
      columns: [
        { key: "name", title: "site", words: true, cell: (row) => el("button", { type: "button", class: "link", onclick: () => siteDrawer(run, row) }, row.name) },
        { key: "operator", title: "operator", also: "reason", cell: (row) => el("span", null, row.operator, row.reason ? el("div", { class: "sub" }, row.reason) : null) }, { key: "C", title: "C" }, { key: "V", title: "V" }, { key: "K", title: "K" }, { key: "bits", title: "bits" },
        { key: "bytes", title: "bytes" }, { key: "normalized_mse", title: "error", format: (value) => number(value) },
        { key: "lost_alone", title: "lost alone", format: (value) => number(value, 2) },
        { key: "code_perplexity", title: "perplexity", format: (value) => number(value, 2) }, { key: "dead_prototypes", title: "dead codes" },
        { key: "clipping_rate", title: "clipping", format: (value) => number(value) },
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

function siteDrawer(run, site) {
  openDrawer(site.name, (inside) => {
    const details = run.details[site.name] || {};
    inside.append(facts([
      ["run", run.name], ["operator", site.operator], ["reason", site.reason], ["shape", site.D ? `${counted(site.D, "input")}, ${counted(site.M, "output")}` : ""],
      ["kernel", site.kernel ? site.kernel.join("×") : ""], ["rows a sample", site.rows], ["groups", site.groups],
      ["C", site.C], ["V", site.V], ["K", site.K], ["bits", site.bits], ["stage", site.stage],
      ["bytes", site.bytes], ["exact bytes", site.exact_bytes], ["INT8 bytes", site.int8_bytes],
      ["normalized error", site.normalized_mse], ["points lost alone", site.lost_alone], ["code perplexity", site.code_perplexity],
      ["dead codes", site.dead_prototypes], ["clipping rate", site.clipping_rate],
    ]));
    const holder = el("div");
    const codebooks = Math.min(details.codebooks || 0, (details.prototypes ? details.prototypes.shape[0] : (details.thresholds || []).length));
    const field = el("input", { type: "number", min: "0", max: String(Math.max(0, codebooks - 1)), value: "0", "aria-label": "Codebook" });
    const show = (codebook) => {
      field.value = String(codebook);
      holder.replaceChildren();
      if (details.thresholds && details.thresholds[codebook]) {
        holder.append(el("h3", null, `Tree of codebook ${codebook}`), el("p", { class: "hint" }, "Each test reads one value: channel (row, column) of the patch. Right where it exceeds the threshold; the numbers below are codes."
          + (details.transformed ? ` Inputs are those after ${details.transformed}.` : "")),
          el("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": "Tree" }, treeDrawing(site, details.thresholds[codebook], details.dims[codebook])));
      }
      if (details.prototypes) holder.append(el("h3", null, `Prototypes of codebook ${codebook}`), patches(site, details, codebook));
    };
    field.addEventListener("input", () => {
      const value = Number(field.value);
      if (Number.isInteger(value) && value >= 0 && value < codebooks) show(value);
    });
    if (details.codes) {
      inside.append(el("h3", null, "Code use"), el("p", { class: "hint" }, `Of ${counted(details.codes.rows, "row")}; a click on a codebook shows it below.`
        + (details.codes.codebooks > details.codes.counts.length ? ` The first ${details.codes.counts.length} of ${details.codes.codebooks} codebooks.` : "")),
        el("div", { class: "drawing uses", tabindex: "0", role: "region", "aria-label": "Code use" }, codeUse(details.codes.counts, (c) => { if (c < codebooks) show(c); })));
    }
    if (codebooks) {
      inside.append(el("div", { class: "bar" }, el("label", null, `codebook (0–${codebooks - 1}${codebooks < details.codebooks ? " of " + details.codebooks : ""})`, field)), holder);
      show(0);
    }
    if (details.errors) {
      inside.append(el("h3", null, "Errors of the layer's answers"), el("p", { class: "hint" }, "Answer less the exact product of the same input, over the deviation of the exact product."
        + (details.errors.outside ? ` ${number(details.errors.outside)} lie outside.` : "")),
        el("div", { class: "drawing" }, histogram(details.errors)));
    }
    if (!details.codes && site.options) inside.append(el("p", { class: "hint" }, "Code use and errors were not recorded: runs record them as they end."));
    if (site.options) inside.append(el("h3", null, "As a rule"), el("pre", { class: "mono" }, yamlRule(site)), button("Copy as YAML", () => copyText(yamlRule(site), "Rule")));
  });
}
