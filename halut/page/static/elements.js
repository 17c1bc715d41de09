// Elements of the page. Texts enter it as text nodes alone: no text is ever read as HTML.

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

function shape(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  for (const child of children.flat()) element.append(child);
  return element;
}

let statusTimer = 0;
function say(message) {
  const status = document.getElementById("status");
  status.textContent = message;
  status.classList.add("shown");
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => status.classList.remove("shown"), 2500);
}

async function copyText(value, what) {
  try {
    await navigator.clipboard.writeText(value);
  } catch (error) {
    const area = el("textarea", { style: "position:fixed;opacity:0" });
    area.value = value;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) { say("The browser does not let this page copy"); return; }
  }
  say(what + " copied");
}

function copyCommand(command) {
  if (command) copyText(command, "Command");
  else say("This point was recorded without a command");
}

function download(name, content, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function button(label, action, attributes) {
  return el("button", { type: "button", class: "button", onclick: action, ...attributes }, label);
}

// A row of buttons of which one is pressed; `choices` are [value, label].
function switcher(label, choices, value, change) {
  const group = el("div", { class: "switch", role: "group", "aria-label": label });
  for (const [choice, title] of choices) {
    group.append(button(title, () => {
      for (const each of group.children) each.setAttribute("aria-pressed", String(each.dataset.value === String(choice)));
      change(choice);
    }, { "data-value": choice, "aria-pressed": String(choice === value) }));
  }
  return group;
}

const sections = [];
function section(id, title, lead, short) {
  const element = el("section", { id, "aria-labelledby": id + "-title" },
    el("h2", { id: id + "-title" }, title), lead ? el("p", { class: "lead" }, lead) : null);
  document.getElementById("app").append(element);
  sections.push([id, short || title]);
  return element;
}

function commandBox(command) {
  return el("button", { type: "button", class: "command mono", title: "Copy the command", onclick: () => copyCommand(command) }, command);
}

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
