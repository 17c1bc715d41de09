// Two or more runs beside each other, their confusions and the images they are worst at.

function compareSection() {
  const runs = page.runs;
  if (runs.length < 2) return;
  const root = section("compare", "Compare runs", "Choose two or more; what differs in their configurations stands below their figures.", "Compare");
  const chosen = new Set(runs.slice(0, 2));
  const holder = el("div");
  root.append(el("div", { class: "bar", role: "group", "aria-label": "Runs to compare" }, runs.map((run) => {
    const each = button(run.name, () => {
      if (chosen.has(run)) chosen.delete(run); else chosen.add(run);
      each.setAttribute("aria-pressed", String(chosen.has(run)));
      draw();
    }, { "aria-pressed": String(chosen.has(run)) });
    return each;
  })), holder);

  function draw() {
    const shown = runs.filter((run) => chosen.has(run));
    if (shown.length < 2) { holder.replaceChildren(el("p", { class: "hint" }, "Choose at least two.")); return; }
    const figure = (run, variant, key) => {
      const row = run.variants.find((each) => (variant === "ours" ? each.variant.startsWith("ours") : each.variant === variant));
      return row ? row[key] : null;
    };
    const lines = [];
    const line = (name, values) => { if (values.some((value) => value !== "")) lines.push([name, values]); };
    line("status", shown.map((run) => run.status));
    for (const variant of ["exact", "exact, fine-tuned", "INT8", "INT4", "ours"]) line(`test accuracy, ${variant}`, shown.map((run) => number(figure(run, variant, "test_accuracy"), 2)));
    line("points lost", shown.map((run) => {
      const exact = figure(run, "exact", "test_accuracy"), ours = figure(run, "ours", "test_accuracy");
      return isNumber(exact) && isNumber(ours) ? number(exact - ours, 2) : "";
    }));
    const costs = ["bytes", "operations", "bops", ...new Set(shown.flatMap((run) => run.variants.flatMap((row) => Object.keys(row).filter((key) => /^(energy$|latency)/.test(key)))))];
    for (const key of costs) line(titleOf(key), shown.map((run) => { const value = figure(run, "ours", key); return /^(energy|latency)/.test(key) ? costText(key, value) : text(value); }));
    line("seconds", shown.map((run) => (isNumber(run.seconds) ? number(Math.round(run.seconds)) : "")));
    const keys = [...new Set(shown.flatMap((run) => Object.keys(run.config)))].sort((a, b) => (b === "halut.name") - (a === "halut.name") || (a < b ? -1 : 1));
    const values = (key) => shown.map((run) => (key in run.config ? JSON.stringify(run.config[key]) : "–"));
    const differing = keys.filter((key) => new Set(values(key)).size > 1);
    const head = el("thead", null, el("tr", null, el("th", { scope: "col" }, ""), shown.map((run) => el("th", { scope: "col" }, run.name))));
    const body = el("tbody", null,
      lines.map(([name, cells]) => el("tr", null, el("th", { scope: "row" }, name), cells.map((cell) => el("td", null, cell)))),
      differing.map((key) => el("tr", { class: "config" }, el("th", { scope: "row" }, key), values(key).map((cell) => el("td", { class: "words differs" }, cell.replace(/^"|"$/g, ""))))));
    holder.replaceChildren(
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, el("table", { id: "comparison" }, head, body)),
      el("p", { class: "hint" }, differing.length ? `${differing.length} option${differing.length > 1 ? "s differ" : " differs"}; – where a run has no such option.` : "The configurations are the same."));
  }
  draw();
}

const MOST_CLASSES = 30;

function errorsSection() {
  const runs = page.runs.filter((run) => run.confusion || (run.worst && run.worst.length));
  if (!runs.length) return;
  const root = section("errors", "Confusions", "Validation samples of the replaced network: rows are the true classes, columns what was answered.");
  const holder = el("div");
  const show = (run) => {
    holder.replaceChildren();
    if (run.confusion) holder.append(confusion(run.confusion.counts, run.confusion.classes || run.classes || []));
    if (run.worst && run.worst.length) {
      holder.append(el("h3", null, "Worst images"), el("p", { class: "hint" }, "Those with the largest loss."), el("div", { class: "worst" }, run.worst.map((each) =>
        el("figure", null, String(each.image).startsWith("data:image/png;base64,") ? el("img", { src: each.image, alt: `${each.label}, taken for ${each.answer}` }) : null,
          el("figcaption", null, `${each.label} → ${each.answer}, loss ${number(each.loss, 2)}`)))));
    }
  };
  if (runs.length > 1) {
    const select = el("select", null, runs.map((run, index) => el("option", { value: String(index) }, run.name)));
    select.addEventListener("change", () => show(runs[Number(select.value)]));
    root.append(el("div", { class: "bar" }, el("label", null, "run", select)));
  }
  root.append(holder);
  show(runs[0]);
}

function confusion(counts, classes) {
  const name = (index) => String(classes[index] === undefined ? index : classes[index]);
  if (counts.length > MOST_CLASSES) {
    const pairs = [];
    counts.forEach((row, i) => row.forEach((count, j) => { if (i !== j && count) pairs.push({ true: name(i), answered: name(j), count }); }));
    pairs.sort((a, b) => b.count - a.count);
    return dataTable({ name: "Confusions", rows: pairs, page: 20, columns: [{ key: "true", title: "class" }, { key: "answered", title: "taken for" }, { key: "count", title: "samples" }] }).root;
  }
  const short = counts.every((_, j) => name(j).length < 4);
  const table = el("table", { class: short ? "matrix short" : "matrix", id: "confusion" }, el("thead", null, el("tr", null, el("td", null, ""), counts.map((_, j) => el("th", { scope: "col" }, name(j))))),
    el("tbody", null, counts.map((row, i) => {
      const total = Math.max(1, row.reduce((a, b) => a + b, 0));
      return el("tr", null, el("th", { scope: "row" }, name(i)), row.map((count, j) => {
        const share = count / total, color = i === j ? "11, 98, 168" : "200, 80, 10";
        return el("td", { style: count ? `background: rgba(${color}, ${(0.08 + 0.6 * share).toFixed(2)})` : "", title: `${name(i)} taken for ${name(j)}: ${count}` }, count ? String(count) : "");
      }));
    })));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, table);
}
