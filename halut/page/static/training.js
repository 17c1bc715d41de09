// Stages before and after swap and training, and curves over the step of the whole run.

const STAGE_KEYS = [["val_accuracy_before", "before"], ["val_accuracy_after_swap", "after swap"], ["val_accuracy_after_training", "after training"]];

function stageRows(runs) {
  const rows = [];
  for (const run of runs) {
    run.stages.forEach((stage, index) => {
      for (const [key, phase] of STAGE_KEYS) {
        if (isNumber(stage[key])) rows.push({ run: run.name, stage: String(index).padStart(2, "0"), phase, accuracy: stage[key], sites: (stage.sites || []).join(", ") });
      }
    });
  }
  return rows;
}

function trainingSection() {
  const runs = page.runs.filter((run) => run.stages.length || Object.keys(run.curves).length);
  if (!runs.length) return;
  const root = section("training", "Stages and training", "What each swap cost and training won back, in validation accuracy; below, what was logged over the step of the whole run. Dashed lines are where a stage begins.", "Training");
  const chosen = new Set(runs.slice(0, 6).map((run) => run.name));
  if (runs.length > 1) {
    root.append(el("div", { class: "bar", role: "group", "aria-label": "Runs" }, runs.map((run) => {
      const each = button(run.name, () => {
        if (chosen.has(run.name)) chosen.delete(run.name); else chosen.add(run.name);
        each.setAttribute("aria-pressed", String(chosen.has(run.name)));
        draw();
      }, { "aria-pressed": String(chosen.has(run.name)) });
      return each;
    })));
  }
  const stages = el("div", { class: "panel" }), curves = el("div", { class: "panel" });
  root.append(el("div", { class: "columns" }, stages, curves));
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  const state = { key: keys.includes("val/accuracy") ? "val/accuracy" : keys[0] };
  const select = el("select", { "data-figure": "training" }, keys.map((key) => el("option", { value: key }, key)));
  if (state.key) select.value = state.key;
  select.addEventListener("change", () => { state.key = select.value; draw(); });
  if (keys.length) curves.append(el("div", { class: "bar" }, el("label", null, "figure", select)));
  let draw = () => {};
  if (hasCharts()) {
    const steps = chart(stages, "stages", "Validation accuracy before and after each stage's swap and training");
    const lines = keys.length ? chart(curves, "curves", "A logged figure over the step of the run") : null;
    draw = () => {
      const shown = runs.filter((run) => chosen.has(run.name));
      steps.draw(stageRows(shown), (spec) => {
        if (shown.length > 1) spec.layer[1].encoding.color = { field: "run", type: "nominal", title: null, sort: null };
      });
      if (!lines) return;
      const rows = [];
      for (const run of shown) {
        const curve = run.curves[state.key];
        if (!curve) continue;
        curve.step.forEach((step, index) => rows.push({ run: run.name, step, value: curve.value[index] }));
        for (const border of run.borders) rows.push({ run: run.name, border: border.step, stage: border.stage });
      }
      lines.draw(rows, (spec) => { retarget(spec, "value", "value", "value", state.key); });
    };
    draw();
  } else {
    stages.append(chartsMissing());
  }
  const rows = runs.flatMap((run) => run.stages.map((stage, index) => ({ run: run.name, stage: index, ...stage, sites: (stage.sites || []).join(", ") })));
  if (rows.length) {
    root.append(dataTable({
      name: "Stages", rows, search: false, page: 12, columns: [
        { key: "run", title: "run" }, { key: "stage", title: "stage" }, { key: "sites", title: "replaced", words: true },
        ...STAGE_KEYS.map(([key, title]) => ({ key, title, format: (value) => number(value, 2) })),
        { key: "epochs", title: "epochs" }, { key: "steps", title: "steps" },
      ],
    }).root);
  }
}
