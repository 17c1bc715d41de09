// The page's content: tables in columns become rows, numbers and texts become cells.

const page = JSON.parse(document.getElementById("page-data").textContent);

function rowsOf(table) {
  const names = Object.keys(table.columns);
  const columns = names.map((name) => {
    const column = table.columns[name];
    return column.values || column.codes.map((code) => (code < 0 ? null : column.words[code]));
  });
  const rows = new Array(table.count);
  for (let i = 0; i < table.count; i++) {
    const row = {};
    for (let j = 0; j < names.length; j++) row[names[j]] = columns[j][i];
    rows[i] = row;
  }
  return rows;
}

const tables = {
  headline: rowsOf(page.headline),
  points: rowsOf(page.points),
  records: rowsOf(page.records),
};

const IDENTITY = new Set([
  "kind", "subject", "model", "weights", "data", "split", "samples", "site", "site_kind", "operator", "option", "family", "asked",
  "C", "V", "K", "bits", "score", "variant", "calibration", "seed", "settings", "command", "run", "time", "stage", "reason", "not_finite",
]);
const figureNames = Object.keys(page.records.columns).filter((name) => !IDENTITY.has(name));

const TITLES = {
  accuracy: "accuracy in %", exact_accuracy: "exact accuracy in %", lost: "points lost",
  loss: "loss", exact_loss: "exact loss", mae: "mean absolute error", mse: "mean squared error",
  normalized_mse: "normalized error", cosine: "cosine", scaled_error: "scaled error",
  scaled_shift: "scaled shift", code_perplexity: "code perplexity", dead_codes: "dead codes",
  bytes: "bytes", exact_bytes: "exact bytes", int8_bytes: "INT8 bytes", operations: "operations",
  bops: "bit operations", weight_bits: "bits a weight", seconds: "seconds", latency: "latency", reason: "not measured, as",
  first_order: "rise of the loss, first order", second_order: "rise of the loss, second order",
  energy: "energy of a sample", not_finite: "not finite", energy_compute: "energy, computing", energy_sram: "energy, SRAM", energy_dram: "energy, DRAM",
  test_accuracy: "test accuracy in %", val_accuracy: "validation accuracy in %",
};

function titleOf(name) {
  return TITLES[name] || name.replace(/_/g, " ");
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function number(value, digits) {
  if (!isNumber(value)) return "";
  if (digits !== undefined) return value.toFixed(digits);
  if (Number.isInteger(value)) return WHOLE.format(value);
  const size = Math.abs(value);
  if (size >= 1000) return WHOLE.format(value);
  if (size >= 0.01) return String(Number(value.toPrecision(4)));
  return value.toPrecision(3);
}

function prefixed(value) {
  if (!isNumber(value)) return "";
  const prefixes = ["", " k", " M", " G", " T", " P"];
  let size = Math.abs(value), index = 0;
  while (size >= 999.5 && index < prefixes.length - 1) { size /= 1000; index += 1; }
  return String(Number(size.toPrecision(3))) + prefixes[index];
}

function measure(value, unit) {
  if (!isNumber(value) || value === 0) return number(value);
  const prefixes = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
  const [scale, prefix] = prefixes.find(([least]) => Math.abs(value) >= least) || prefixes[4];
  return `${Number((value / scale).toPrecision(3))} ${prefix}${unit}`;
}

// A number of things: 1 record, 1,200 records.
function counted(value, noun) {
  return `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
}

// How a cost is told, by its name.
function costText(name, value) {
  if (name.startsWith("energy")) return measure(value, "J");
  if (name.startsWith("latency")) return measure(value, "s");
  if (["operations", "bops", "macs", "lookups", "adds"].includes(name)) return prefixed(value);
  return number(value);
}

function spread(mean, deviation, digits) {
  if (!isNumber(mean)) return "";
  return number(mean, digits) + (isNumber(deviation) ? " ± " + number(deviation, digits) : "");
}

function text(value) {
  return typeof value === "number" ? number(value) : value === null || value === undefined ? "" : String(value);
}

function distinct(rows, key) {
  const values = new Set();
  for (const row of rows) if (row[key] !== null && row[key] !== undefined) values.add(row[key]);
  return [...values];
}

function ordered(values) {
  return values.every(isNumber) ? values.sort((a, b) => a - b) : values;
}

function csv(rows, names) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    const line = String(value);
    return /[",\n\r]/.test(line) ? '"' + line.replace(/"/g, '""') + '"' : line;
  };
  return [names.map(cell).join(","), ...rows.map((row) => names.map((name) => cell(row[name])).join(","))].join("\n") + "\n";
}
