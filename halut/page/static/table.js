// A table of any length: sorted by its headings, searched, one page of rows in the document; and
// the selects that filter rows.

const PAGE = 50;

// options: columns [{key, title, format, words, cell}], rows, name, search, select, detail, page.
function dataTable(options) {
  const state = { sort: null, down: false, at: 0, words: "", rows: options.rows, chosen: new Set() };
  const columns = options.columns.filter((column) => column.cell || options.rows.some((row) => row[column.key] !== null && row[column.key] !== undefined));
  const numeric = new Map(columns.map((column) => [column, !column.words && options.rows.some((row) => isNumber(row[column.key]))]));
  const size = options.page || PAGE;
  const pinned = columns.find((column) => column.words) || columns[0]; // what a row is about stays in sight
  const body = el("tbody");
  const counter = el("span", { class: "count" });
  const previous = button("Previous", () => { state.at -= size; draw(); });
  const next = button("Next", () => { state.at += size; draw(); });
  const heads = columns.map((column) => {
    const head = el("th", { scope: "col", class: classOf(column) });
    if (column.cell && !column.key) head.append(column.title);
    else head.append(el("button", { type: "button", class: "sort", onclick: () => sortBy(column, head) }, column.title));
    return head;
  });
  function classOf(column) {
    const kind = numeric.get(column) ? "number" : column.words ? "words" : "";
    return (column === pinned ? kind + " pinned" : kind).trim() || null;
  }
  if (options.select) heads.unshift(el("th", { scope: "col" }, el("span", { class: "sub" }, "pick")));
  const table = el("table", { "aria-label": options.name }, el("thead", null, el("tr", null, heads)), body);
  const root = el("div", { class: "data-table" });
  if (options.search !== false) {
    const field = el("input", { type: "search", placeholder: "Search", "aria-label": "Search " + options.name });
    field.addEventListener("input", () => { state.words = field.value.toLowerCase(); state.at = 0; apply(); });
    root.append(el("div", { class: "bar" }, field, options.tools || []));
  }
  const pager = el("div", { class: "pager" }, previous, next, counter);
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": options.name }, table);
  const wider = el("p", { class: "hint wider", hidden: true }, "Scroll the table for more columns →");
  const fade = () => {
    wider.hidden = !scroll.classList.toggle("more", scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 2);
  };
  scroll.addEventListener("scroll", fade, { passive: true });
  new ResizeObserver(fade).observe(scroll);
  root.append(scroll, wider, pager);
  let shown = [];
  const haystacks = new Map();

  function haystack(row) {
    let line = haystacks.get(row);
    if (line === undefined) {
      line = columns.map((column) => [column.key, column.also].map((key) => (key && row[key] !== null ? row[key] : "")).join(" ")).join(" ").toLowerCase();
      haystacks.set(row, line);
    }
    return line;
  }

  function sortBy(column, head) {
    state.down = state.sort === column ? !state.down : numeric.get(column) && column.down !== false;
    state.sort = column;
    state.at = 0;
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    apply();
  }

  function apply() {
    const words = state.words.split(/\s+/).filter(Boolean);
    shown = words.length ? state.rows.filter((row) => { const line = haystack(row); return words.every((word) => line.includes(word)); }) : state.rows.slice();
    if (state.sort) {
      const key = state.sort.key, sign = state.down ? -1 : 1;
      const missing = (value) => value === null || value === undefined || value === "";
      shown.sort((a, b) => {
        const x = a[key], y = b[key];
        if (missing(x) || missing(y)) return missing(x) - missing(y); // what is not told stands last
        if (typeof x === "number" && typeof y === "number") return sign * (x - y);
        return sign * String(x).localeCompare(String(y), "en", { numeric: true });
      });
    }
    draw();
  }

  function cellOf(row, column) {
    if (column.cell) return column.cell(row);
    const value = row[column.key];
    return column.format ? column.format(value, row) : text(value);
  }

  function draw() {
    state.at = Math.max(0, Math.min(state.at, Math.floor(Math.max(0, shown.length - 1) / size) * size));
    const part = shown.slice(state.at, state.at + size);
    body.replaceChildren(...part.map((row) => {
      const cells = columns.map((column) => el("td", { class: classOf(column) }, cellOf(row, column)));
      if (options.select) {
        const box = el("input", { type: "checkbox", "aria-label": "Pick " + options.select(row) });
        box.checked = state.chosen.has(row);
        box.addEventListener("change", () => { if (box.checked) state.chosen.add(row); else state.chosen.delete(row); });
        cells.unshift(el("td", null, box));
      }
      return el("tr", { class: options.rowClass ? options.rowClass(row) : null }, cells);
    }));
    const last = Math.min(state.at + size, shown.length);
    counter.textContent = shown.length ? `${number(state.at + 1)}–${number(last)} of ${number(shown.length)}` : "no rows";
    if (shown.length !== options.rows.length) counter.textContent += ` (${number(options.rows.length)} in all)`;
    previous.disabled = state.at === 0;
    next.disabled = last >= shown.length;
    previous.hidden = next.hidden = shown.length <= size;
    pager.hidden = shown.length <= size && shown.length === options.rows.length && options.rows.length > 0;
  }

  apply();
  return {
    root,
    setRows(rows) { state.rows = rows; state.at = 0; apply(); },
    rows: () => shown,
    chosen: () => options.rows.filter((row) => state.chosen.has(row)),
  };
}

// Selects over the fields of rows; a field with one value needs none.

// fields: [key, title]; change(rows) is called with what is left.
function filterBar(rows, fields, change) {
  const bar = el("div", { class: "bar", role: "group", "aria-label": "Filters" });
  const chosen = new Map();
  const selects = [];
  for (const [key, title] of fields) {
    const values = ordered(distinct(rows, key));
    if (values.length < 2) continue;
    const select = el("select", { "data-field": key }, el("option", { value: "" }, "all"));
    values.forEach((value, index) => select.append(el("option", { value: String(index) }, text(value))));
    select.addEventListener("change", () => {
      if (select.value === "") chosen.delete(key);
      else chosen.set(key, values[Number(select.value)]);
      change(left());
    });
    selects.push(select);
    bar.append(el("label", null, title, select));
  }
  if (selects.length) {
    bar.append(button("Clear", () => {
      chosen.clear();
      for (const select of selects) select.value = "";
      change(left());
    }));
  }

  function left() {
    if (!chosen.size) return rows;
    const wanted = [...chosen];
    return rows.filter((row) => wanted.every(([key, value]) => row[key] === value));
  }

  function choose(key, value) {
    const select = selects.find((each) => each.dataset.field === key);
    select.value = [...select.options].find((option) => option.textContent === text(value)).value;
    select.dispatchEvent(new Event("change"));
  }

  return { root: bar, left, choose, empty: !selects.length };
}
