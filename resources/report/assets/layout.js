// Brings the open page's tab into view, and says which tables and figures scroll sideways.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const tab = document.querySelector(".bar [aria-current]");
  const bar = tab.parentElement;
  bar.scrollLeft = tab.offsetLeft - bar.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;

  const hints = new WeakMap();
  const tell = (box) => {
    const hidden = box.scrollWidth - box.clientWidth;
    hints.get(box).hidden = hidden < 2;
    box.classList.toggle("more", hidden - box.scrollLeft > 1);
  };
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => tell(target)));
  const watch = (box) => {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Scroll sideways to see all of it.";
    box.before(hint);
    hints.set(box, hint);
    box.addEventListener("scroll", () => tell(box), { passive: true });
    resized.observe(box); // also when a fold opens
  };
  const find = () => {
    for (const box of document.querySelectorAll(".scroll")) if (!hints.has(box)) watch(box);
  };
  find();
  new MutationObserver(find).observe(document.getElementById("main"), { childList: true, subtree: true });
});
