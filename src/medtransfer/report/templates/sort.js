// Titles become buttons that sort: a second press turns the order; numbers sort as numbers, by their first one.
const value = cell => { const m = cell.textContent.replace(/,/g, "").match(/[-+]?\d+(\.\d+)?/); return m && !/^[A-Za-z]/.test(cell.textContent) ? parseFloat(m[0]) : null; };
for (const th of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button"; button.append(...th.childNodes); th.append(button);
  button.addEventListener("click", () => {
    const body = th.closest("table").tBodies[0], place = th.cellIndex, down = th.getAttribute("aria-sort") !== "descending";
    for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => {
      const x = value(a.cells[place]), y = value(b.cells[place]);
      if (x === null || y === null) return x === y ? a.cells[place].textContent.localeCompare(b.cells[place].textContent) * (down ? -1 : 1) : x === null ? 1 : -1;
      return down ? y - x : x - y;
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  });
}
