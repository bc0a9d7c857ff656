// Lets DataTables sort every table and search the long ones.
"use strict";
(() => {
  const LONG = 20; // rows
  const value = (cell) => {
    if (cell.dataset.order !== undefined) return Number(cell.dataset.order);
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };
  // Missing values come last in either direction.
  const ordered = (sign) => (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  };
  DataTable.ext.errMode = "throw";
  DataTable.ext.order.cell = (settings, column) => settings.api.column(column, { order: "index" }).nodes().toArray().map(value);
  DataTable.type("cell", {
    order: { asc: ordered(1), desc: ordered(-1) },
    // DataTables would never find a row that contains this paragraph separator.
    search: (html) => DataTable.util.stripHtml(html).replaceAll("\u2029", " "),
  });

  for (const table of document.querySelectorAll("table.sortable")) {
    const long = table.tBodies[0].rows.length > LONG;
    new DataTable(table, {
      autoWidth: false,
      columnDefs: [
        { targets: "_all", type: "cell", orderDataType: "cell" },
        // A first click sorts numbers from the highest down, and names from A to Z.
        { targets: "number", orderSequence: ["desc", "asc", ""] },
      ],
      columnTitleTag: "button",
      language: {
        search: "Search",
        info: "_TOTAL_",
        infoEmpty: "0",
        infoFiltered: "of _MAX_",
        infoPostFix: " rows",
        zeroRecords: "No row contains all of these words.",
      },
      layout: { topStart: long ? ["search", "info"] : null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [],
      orderClasses: false,
      ordering: { indicators: false },
      paging: false,
    });
  }
})();
