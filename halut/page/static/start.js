// Puts the page together.

function head() {
  const meta = document.getElementById("meta");
  const counts = [];
  if (tables.records.length) counts.push(counted(tables.records.length, "record"));
  if (page.runs.length) counts.push(counted(page.runs.length, "run"));
  if (page.searches.length) counts.push(page.searches.length === 1 ? "1 search" : `${page.searches.length} searches`);
  meta.append(el("span", null, counts.join(", ") || "no measurements"));
  let saved = null;
  try { saved = localStorage.getItem("halut-theme"); } catch (error) { saved = null; }
  if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;
  const toggle = button("", () => {
    const next = theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("halut-theme", next); } catch (error) { /* a page without storage forgets */ }
    label();
    redrawCharts();
  }, { id: "theme" });
  const label = () => { toggle.textContent = theme() === "dark" ? "Light" : "Dark"; toggle.setAttribute("aria-label", `Use the ${theme() === "dark" ? "light" : "dark"} theme`); };
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { label(); redrawCharts(); });
  meta.append(el("span", { class: "push" },
    button("Download JSON", () => {
      const { charts, themes, ...content } = page;
      download("report.json", JSON.stringify(content), "application/json");
    }), button("Print", () => window.print()), toggle));
}

function contents() {
  const nav = document.getElementById("contents");
  if (sections.length < 2) return;
  const links = new Map(sections.map(([id, title]) => [id, el("a", { href: "#" + id }, title)]));
  nav.append(el("div", { class: "wide" }, [...links.values()]));
  nav.hidden = false;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) for (const [id, link] of links) link.setAttribute("aria-current", String(id === entry.target.id));
    }
  }, { rootMargin: "-30% 0px -60% 0px" });
  for (const [id] of sections) seen.observe(document.getElementById(id));
}

// What fails costs its own section alone, and is said.
for (const build of [head, headlineSection, frontSection, searchSection, costSection, layersSection, convergenceSection,
  trainingSection, sitesSection, errorsSection, compareSection, runsTable, recordsSection, contents]) {
  try {
    build();
  } catch (error) {
    console.error(error);
    document.querySelector("#notes ul").append(el("li", null, `This browser could not show a part of the page (${build.name}): ${error.message}`));
  }
}
document.documentElement.dataset.ready = "true";
