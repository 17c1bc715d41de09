// The drawer at the side: a dialog, which Escape closes and which gives the focus back.

function openDrawer(title, fill) {
  const inside = el("div", { class: "inside" });
  const dialog = el("dialog", { class: "drawer", "aria-labelledby": "drawer-title" },
    el("header", null, el("h2", { id: "drawer-title" }, title), button("Close", () => dialog.close(), { "aria-label": "Close" })), inside);
  const before = document.activeElement;
  dialog.addEventListener("close", () => { dialog.remove(); if (before && before.focus) before.focus(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  fill(inside);
  document.body.append(dialog);
  dialog.showModal();
}

function facts(pairs) {
  const list = el("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    const words = text(value);
    if (words !== "") list.append(el("div", null, el("dt", null, name), el("dd", null, words)));
  }
  return list;
}

function siteDrawer(run, site) {
  openDrawer(site.name, (inside) => {
    const details = run.details[site.name] || {};
    inside.append(facts([
      ["run", run.name], ["operator", site.operator], ["reason", site.reason], ["shape", site.D ? `${site.D} inputs, ${site.M} outputs` : ""],
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
      inside.append(el("h3", null, "Code use"), el("p", { class: "hint" }, `Of ${number(details.codes.rows)} rows; a click on a codebook shows it below.`
        + (details.codes.codebooks > details.codes.counts.length ? ` The first ${details.codes.counts.length} of ${details.codes.codebooks} codebooks.` : "")),
        el("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": "Code use" }, codeUse(details.codes.counts, (c) => { if (c < codebooks) show(c); })));
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

function recordDrawer(row) {
  openDrawer(row.site || row.subject || "Record", (inside) => {
    inside.append(facts(Object.entries(row).filter(([key]) => key !== "command").map(([key, value]) => [titleOf(key), value])));
    if (row.command) inside.append(el("h3", null, "Command"), commandBox(row.command));
  });
}
