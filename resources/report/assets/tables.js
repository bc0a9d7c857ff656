// Tables that sort by a click on a column's head, and records that open when a link leads to them.
"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      // Figures are looked at from the highest down; names from the first on.
      const numeric = original.some((row) => row.cells[column].dataset.value !== undefined);
      const cycle = numeric ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort") || "none";
        const next = cycle[(cycle.indexOf(now) + 1) % 3];
        for (const other of heads) other.removeAttribute("aria-sort");
        let rows = original;
        if (next !== "none") {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          rows = original.toSorted((a, b) => {
            const [x, y] = [value(a, column), value(b, column)];
            if (x === null || y === null) return (x === null) - (y === null);
            return sign * compare(x, y);
          });
        }
        body.append(...rows);
      });
    });
  }

  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
  // What is folded on the screen is wanted on paper.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("section > details:not(.record)")) details.open = true;
  });
})();
