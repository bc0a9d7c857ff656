// Applies the theme that the reader chose earlier, or else the system's, before the first paint.
"use strict";
(() => {
  const order = ["", "light", "dark"];
  const names = { "": "system", light: "light", dark: "dark" };
  const root = document.documentElement;
  const remembered = () => {
    try {
      return localStorage.getItem("alignxplore-theme") || "";
    } catch {
      return "";
    }
  };
  const apply = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  const first = remembered();
  apply(order.includes(first) ? first : "");
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = () => {
      button.textContent = `Theme: ${names[root.dataset.theme || ""]}`;
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = order[(order.indexOf(root.dataset.theme || "") + 1) % order.length];
      apply(next);
      try {
        localStorage.setItem("alignxplore-theme", next);
      } catch {
        // If storage is forbidden, the choice lasts as long as the page.
      }
      tell();
    });
    tell();
  });
})();
