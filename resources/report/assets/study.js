// The case study: the chosen cases, each with all methods side by side.
"use strict";
(async () => {
  const { numbers, methods } = AX.study;
  const places = methods.map((name) => AX.index.methods.findIndex(([own]) => own === name));
  const parts = [];
  for (const number of numbers) {
    const shown = AX.show(await AX.details(number), places, "h2");
    shown.querySelector(".history").open = true;
    parts.push(shown);
  }
  document.getElementById("study").replaceChildren(...parts);
})();
