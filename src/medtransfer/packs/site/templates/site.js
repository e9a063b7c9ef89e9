"use strict";
{% include "sort.js" %}
// A form over a table shows the rows that have all that was chosen; the numbers stay those of all rows.
for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...form.nextElementSibling.querySelectorAll("tbody tr")], output = form.querySelector("output");
  const apply = () => {
    const wanted = [...form.elements].filter(e => e.name && e.value).map(e => [e.name, e.value]);
    for (const row of rows) {
      const own = JSON.parse(row.dataset.groups);
      row.hidden = !wanted.every(([name, value]) => own.some(([n, v]) => n === name && v === value));
    }
    const shown = rows.filter(row => !row.hidden).length;
    output.textContent = shown < rows.length ? `${shown} of ${rows.length} rows; their numbers are those among all` : "";
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", event => event.preventDefault());
  apply();
}
// The bar closes behind a choice; folded tables are open on paper.
const bar = document.querySelector(".bar");
bar.addEventListener("click", event => { if (event.target.closest("a")) bar.open = false; });
addEventListener("beforeprint", () => document.querySelectorAll("details.rows").forEach(d => d.open = true));
