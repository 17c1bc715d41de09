// Drawings of one table: its code use, a tree, prototypes, the histogram of errors.

// Viridis at nine places; between them linear. Told apart with any color vision.
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
// Blue for negative, white for zero, orange for positive.
function signed(value) {
  const share = Math.max(-1, Math.min(1, value));
  const end = share < 0 ? [11, 98, 168] : [200, 80, 10];
  return end.map((part) => Math.round(255 + (part - 255) * Math.abs(share)));
}

function viridis(share) {
  const at = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((part, i) => Math.round(part + (at - low) * (VIRIDIS[low + 1][i] - part)));
}

function rgb(color) {
  return `rgb(${color.join(",")})`;
}

// Shares of the rows by code: a row a codebook, a column a prototype; dead codes are crossed.
function codeUse(counts, pick) {
  const K = counts[0].length, size = Math.max(5, Math.min(20, Math.floor(560 / K)));
  const root = shape("svg", { width: 46 + K * size, height: 24 + counts.length * size, role: "img", "aria-label": `Code use of ${counts.length} codebooks and ${K} prototypes` });
  const top = Math.max(...counts.map((row) => Math.max(...row) / Math.max(1, row.reduce((a, b) => a + b, 0))));
  counts.forEach((row, c) => {
    const total = Math.max(1, row.reduce((a, b) => a + b, 0));
    if (c % Math.max(1, Math.ceil(12 / size)) === 0) root.append(shape("text", { x: 38, y: 20 + c * size + size / 2 + 4, "text-anchor": "end", class: "soft" }, String(c)));
    row.forEach((count, k) => {
      const share = count / total;
      const cell = shape("rect", { x: 44 + k * size, y: 20 + c * size, width: size - 1, height: size - 1, fill: count ? rgb(viridis(share / top)) : "none", stroke: count ? "none" : "currentColor", "stroke-opacity": 0.5 },
        shape("title", {}, `codebook ${c}, prototype ${k}: ${count ? (100 * share).toFixed(1) + " % of rows" : "never used"}`));
      cell.addEventListener("click", () => pick(c));
      root.append(cell);
    });
  });
  root.append(shape("text", { x: 44, y: 12, class: "soft" }, `prototypes 0–${K - 1}; empty squares are dead codes`));
  return root;
}

// Which value a column of the rows is: an input, or a pixel of a channel.
function columnName(site, column) {
  if (!site.kernel) return `input ${column}`;
  const [height, width] = site.kernel, area = height * width;
  return `ch ${Math.floor(column / area)} (${Math.floor((column % area) / width)}, ${column % width})`;
}

const DEEPEST = 4;

// The tests of a codebook's tree from the top; right is above the threshold.
function treeDrawing(site, thresholds, dims) {
  const depth = Math.log2(thresholds.length + 1), levels = Math.min(depth, DEEPEST);
  const perNode = dims.length === thresholds.length && dims.length !== depth;
  const leaves = 2 ** levels, step = 94, height = 72;
  const root = shape("svg", { width: leaves * step / 2 + 20, height: levels * height + 40, role: "img", "aria-label": `Tree of ${thresholds.length} tests` });
  const span = leaves * step / 2;
  const place = (level, prefix) => [10 + span * (prefix + 0.5) / 2 ** level, 20 + level * height];
  for (let level = 0; level < levels; level++) {
    for (let prefix = 0; prefix < 2 ** level; prefix++) {
      const [x, y] = place(level, prefix);
      for (const side of [0, 1]) {
        const [to, below] = place(level + 1, 2 * prefix + side);
        root.append(shape("path", { d: `M${x},${y} C${x},${y + height / 2} ${to},${y + height / 2} ${to},${below - 8}`, class: "edge" }));
      }
    }
  }
  for (let level = 0; level < levels; level++) {
    for (let prefix = 0; prefix < 2 ** level; prefix++) {
      const [x, y] = place(level, prefix), node = 2 ** level - 1 + prefix;
      const column = perNode ? dims[node] : dims[level], name = columnName(site, column);
      const value = thresholds[node], test = value === null ? "> ∞" : `> ${number(value)}`;
      const tip = shape("title", {}, `${name} ${test}`);
      root.append(shape("rect", { x: x - 42, y: y - 15, width: 84, height: 32, rx: 6, class: "node" }, tip),
        shape("text", { x, y: y - 2, "text-anchor": "middle", class: "soft" }, name),
        shape("text", { x, y: y + 12, "text-anchor": "middle" }, test));
    }
  }
  for (let leaf = 0; leaf < leaves; leaf++) {
    const [x, y] = place(levels, leaf);
    root.append(shape("text", { x, y: y + 4, "text-anchor": "middle", class: "soft" }, levels === depth ? String(leaf) : "…"));
  }
  return root;
}

function unpacked(packed) {
  const bytes = atob(packed.data), values = new Int8Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) values[i] = bytes.charCodeAt(i);
  return values;
}

// The prototypes of a codebook: patches of the channels it reads, or one strip of its inputs.
function patches(site, details, codebook) {
  const [, K, V] = details.prototypes.shape, values = unpacked(details.prototypes);
  const start = details.starts ? details.starts[codebook] : codebook * V;
  const width = details.widths ? details.widths[codebook] : V;
  const own = values.subarray(codebook * K * V, (codebook + 1) * K * V);
  let top = 1;
  for (const value of own) top = Math.max(top, Math.abs(value));
  const list = el("div", { class: "patches" });
  const [height, across] = site.kernel && !details.transformed ? site.kernel : [1, width];
  const area = height * across, first = Math.floor(start / area), channels = Math.floor((start + width - 1) / area) - first + 1;
  for (let k = 0; k < K; k++) {
    const canvas = el("canvas", { width: channels * (across + 1) - 1, height, "aria-hidden": "true" });
    const pixel = Math.max(4, Math.min(14, Math.floor(120 / canvas.width)));
    canvas.style.cssText = `width:${canvas.width * pixel}px;height:${height * pixel}px`;
    const context = canvas.getContext("2d");
    for (let v = 0; v < width; v++) {
      const column = start + v, channel = Math.floor(column / area) - first, inside = ((column % area) + area) % area;
      context.fillStyle = rgb(signed(own[k * V + v] / top));
      context.fillRect(channel * (across + 1) + (inside % across), Math.floor(inside / across), 1, 1);
    }
    list.append(el("figure", null, canvas, el("figcaption", null, String(k))));
  }
  const reads = site.kernel && !details.transformed ? `channel${channels > 1 ? `s ${first}–${first + channels - 1}` : ` ${first}`}, ${height}×${across}` : `inputs ${start}–${start + width - 1}`;
  return el("div", null, el("p", { class: "hint" }, `Reads ${reads}. Blue is negative, white zero, orange positive; the largest is ±${number(top * details.prototypes.scale)}.`), list);
}

function histogram(errors) {
  const counts = errors.counts, width = 560, height = 120, step = width / counts.length;
  const top = Math.max(1, ...counts);
  const root = shape("svg", { width, height: height + 24, role: "img", "aria-label": "Histogram of errors" });
  counts.forEach((count, i) => {
    const tall = height * count / top;
    const low = errors.low + (errors.high - errors.low) * i / counts.length;
    const high = errors.low + (errors.high - errors.low) * (i + 1) / counts.length;
    root.append(shape("rect", { x: i * step, y: height - tall, width: Math.max(1, step - 1), height: tall, class: "barshape" }, shape("title", {}, `${number(low)} to ${number(high)}: ${number(count)}`)));
  });
  for (const [x, value, anchor] of [[0, errors.low, "start"], [width / 2, (errors.low + errors.high) / 2, "middle"], [width, errors.high, "end"]]) {
    root.append(shape("text", { x, y: height + 18, "text-anchor": anchor, class: "soft" }, number(value) || "0"));
  }
  return root;
}
