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
