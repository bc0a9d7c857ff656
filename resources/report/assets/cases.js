// The case explorer: filters, a paged list and one case. Its whole state is in the address, so any view can be linked.
"use strict";
(() => {
  const PAGE = 50;
  const DELAY = 120; // ms to wait after a keystroke before searching
  const e = (...all) => AX.element(...all);
  const { index } = AX;
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const pages = document.getElementById("pages");
  const status = document.getElementById("status");
  const article = document.getElementById("case");
  const methods = index.methods.map(([name]) => name);
  const spaced = new Intl.NumberFormat("en");

  let start = 0;
  const benchmarks = index.benchmarks.map(([name, count]) => ({ name, from: start, to: (start += count) }));
  const benchmarkOf = (number) => benchmarks.find(({ to }) => number < to).name;

  const judged = methods.filter((_, place) => index.outcomes.some((of) => of[place]));
  const defaults = {
    judge: index.judges[0] || "",
    a: judged[0] || methods[0] || "",
    b: judged.at(-1) || methods.at(-1) || "",
  };
  if (methods.includes("alignxplore") && methods.includes("backbone")) Object.assign(defaults, { a: "alignxplore", b: "backbone" });

  const fill = (name, options) => form.elements[name].append(...options.map(([value, text]) => e("option", { value }, text)));
  fill("benchmark", benchmarks.map(({ name, from, to }) => [name, `${name} (${spaced.format(to - from)})`]));
  fill("dimension", index.dimensions.map(([name]) => [name, name]));
  fill("judge", index.judges.map((name) => [name, name]));
  fill("a", index.methods);
  fill("b", index.methods);

  const read = () => new URLSearchParams(location.hash.slice(1));
  const of = (state, name) => state.get(name) ?? defaults[name] ?? "";
  const link = (state, changes) => {
    const next = new URLSearchParams(state);
    for (const [name, value] of Object.entries(changes)) {
      if (value === "" || value === null || value === defaults[name]) next.delete(name);
      else next.set(name, value);
    }
    return `#${next}`;
  };
  const outcomes = (state, name) => index.outcomes[index.judges.indexOf(of(state, "judge"))]?.[methods.indexOf(of(state, name))] ?? null;

  // Whether a judge decides any case of a benchmark. One that decides none was not asked about it.
  const judges = (judge, { from, to }) => index.outcomes[judge].some((of) => of && /[01]/.test(of.slice(from, to)));

  const filtered = async (state) => {
    const mask = (await AX.search(state.get("q") || "")) || new Uint8Array(index.count).fill(1);
    const wanted = state.get("dimension");
    if (wanted) {
      const own = new Uint8Array(index.count);
      AX.posting(index.dimensions.find(([name]) => name === wanted)?.[1] ?? "", (number) => (own[number] = 1));
      for (let i = 0; i < mask.length; i++) mask[i] &= own[i];
    }
    const benchmark = benchmarks.find(({ name }) => name === state.get("benchmark"));
    const [from, to] = benchmark ? [benchmark.from, benchmark.to] : [0, index.count];
    const [a, b] = [outcomes(state, "a"), outcomes(state, "b")];
    const outcome = state.get("outcome");
    const differ = state.get("differ");
    const found = [];
    for (let i = from; i < to; i++) {
      if (!mask[i]) continue;
      const [x, y] = [a ? a[i] : "-", b ? b[i] : "-"];
      if (outcome && x !== outcome) continue;
      if (differ && (x === y || x === "-" || y === "-")) continue;
      found.push(i);
    }
    return found;
  };

  const sign = (outcome, name) => {
    const meaning = { 1: ["✓", "right"], 0: ["✗", "wrong"] }[outcome];
    return e("span", { class: meaning ? meaning[1] : "soft", title: name }, meaning ? meaning[0] : "·", e("span", { class: "away" }, ` ${name} ${meaning ? meaning[1] : "not judged"}`));
  };

  const row = (state, number, open) => {
    const signs = ["a", "b"].map((name) => {
      const place = methods.indexOf(of(state, name));
      return place < 0 ? null : sign(outcomes(state, name)?.[number], index.methods[place][1]);
    });
    const key = `${benchmarkOf(number)}/${index.ids[number]}`;
    return e(
      "li",
      null,
      e(
        "a",
        { href: link(state, { case: key }), "aria-current": key === open ? "true" : null },
        e("span", { class: "signs" }, ...signs),
        e("span", { class: "snippet", dir: "auto" }, index.snippets[number] || "(no text)"),
        e("span", { class: "soft" }, key),
      ),
    );
  };

  const numberOf = (key) => {
    const cut = key.indexOf("/");
    const benchmark = benchmarks.find(({ name }) => name === key.slice(0, cut));
    if (!benchmark) return -1;
    const place = index.ids.indexOf(key.slice(cut + 1), benchmark.from);
    return place < benchmark.to ? place : -1;
  };

  let shown = [];
  const listed = (state) => {
    const open = state.get("case");
    const count = Math.max(1, Math.ceil(shown.length / PAGE));
    const page = Math.min(count, Math.max(1, Number(state.get("page")) || 1));
    const compared = ["a", "b"].flatMap((name) => index.methods[methods.indexOf(of(state, name))]?.[1] ?? []);
    const judge = of(state, "judge");
    const benchmark = benchmarks.find(({ name }) => name === state.get("benchmark"));
    const unasked = benchmark && index.judges.includes(judge) && !judges(index.judges.indexOf(judge), benchmark);
    const verdicts = unasked ? `; ${judge} does not judge ${benchmark.name}` : `; ✓ and ✗ are the verdicts of ${judge} on ${compared.join(" and ")}`;
    const signs = compared.length ? verdicts : "";
    status.textContent = `${spaced.format(shown.length)} of ${spaced.format(index.count)} cases${signs}`;
    list.start = (page - 1) * PAGE + 1;
    list.replaceChildren(...shown.slice((page - 1) * PAGE, page * PAGE).map((number) => row(state, number, open)));
    const turn = (to, name) => (to < 1 || to > count ? e("span", { class: "soft" }, name) : e("a", { href: link(state, { page: to === 1 ? "" : to }) }, name));
    pages.replaceChildren(turn(page - 1, "Previous"), e("span", null, `page ${page} of ${count}`), turn(page + 1, "Next"));
  };

  let opened = null;
  const detailed = async (state) => {
    const key = state.get("case");
    const wanted = key && [key, of(state, "a"), of(state, "b")].join("\n");
    document.body.classList.toggle("open", Boolean(key));
    if (!key) {
      opened = null;
      article.replaceChildren(e("p", { class: "soft" }, "Choose a case from the list."));
      return;
    }
    const number = numberOf(key);
    const place = shown.indexOf(number);
    const step = (to, name) => (place < 0 || to < 0 || to >= shown.length ? e("span", { class: "soft" }, name) : e("a", { href: link(state, { case: `${benchmarkOf(shown[to])}/${index.ids[shown[to]]}`, page: Math.floor(to / PAGE) + 1 }) }, name));
    const bar = e("nav", { class: "steps", "aria-label": "Other cases" }, e("a", { class: "back", href: link(state, { case: "" }) }, "Back to the list"), step(place - 1, "Previous case"), step(place + 1, "Next case"));
    if (number < 0) {
      opened = null;
      article.replaceChildren(bar, e("p", null, `There is no case ${key}.`));
      return;
    }
    if (wanted === opened) {
      article.querySelector(".steps").replaceWith(bar);
      return;
    }
    const another = opened?.split("\n")[0] !== key;
    opened = wanted;
    const one = await AX.details(number);
    const steps = [];
    for (const other of one.steps || []) {
      const step = await AX.details(other);
      steps.push({ one: step, href: link(state, { case: `${step.benchmark}/${step.id}` }) });
    }
    if (opened !== wanted) return; // another case was opened meanwhile
    const history = another || article.querySelector(".history")?.open;
    const sides = [...new Set(["a", "b"].map((name) => methods.indexOf(of(state, name))))].filter((side) => side >= 0);
    const body = AX.show(one, sides, "h2", steps);
    body.querySelector(".history").open = history;
    article.replaceChildren(bar, body, everyone(one));
    if (another) {
      article.focus({ preventScroll: true });
      article.scrollTop = 0;
      if (getComputedStyle(list.parentElement).display === "none") scrollTo(0, 0);
    }
  };

  // The verdicts of all judges on all methods.
  const everyone = (one) => {
    const by = new Map(one.judged.map((row) => [`${row[0]} ${row[1]}`, row[4]]));
    const rows = index.methods.flatMap(([, label], method) => {
      const cells = index.judges.map((_, judge) => by.get(`${judge} ${method}`));
      return cells.every((cell) => cell === undefined) ? [] : [[label, cells]];
    });
    if (!rows.length) return "";
    const benchmark = benchmarks.find(({ name }) => name === one.benchmark);
    const asked = index.judges.map((_, judge) => judges(judge, benchmark));
    const unasked = index.judges.filter((_, judge) => !asked[judge]).map((name) => `${name} does not judge ${one.benchmark}.`);
    return e(
      "section",
      { class: "everyone" },
      e("h3", null, "All methods and judges"),
      unasked.length ? e("p", { class: "soft" }, unasked.join(" ")) : null,
      e(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-label": "Verdicts on all methods" },
        e(
          "table",
          { class: "plain" },
          e("thead", null, e("tr", null, e("th", { scope: "col" }, "method"), ...index.judges.flatMap((name, judge) => (asked[judge] ? e("th", { scope: "col" }, name) : [])))),
          e(
            "tbody",
            null,
            ...rows.map(([label, cells]) =>
              e("tr", null, e("th", { scope: "row" }, label), ...cells.flatMap((cell, judge) => (!asked[judge] ? [] : e("td", null, cell === undefined ? e("span", { class: "soft" }, "not judged") : sign(Number(cell), index.judges[judge]))))),
            ),
          ),
        ),
      ),
    );
  };

  let timer = 0;
  let turn = 0;
  let filteredBy = null;
  const filters = (state) => ["q", "benchmark", "dimension", "judge", "a", "b", "outcome", "differ"].map((name) => state.get(name) || "").join("\n");
  const update = async () => {
    const mine = ++turn;
    const from = performance.now();
    const state = read();
    for (const field of form.elements) {
      if (!field.name || (timer && field.type === "search")) continue; // the text being typed is newer
      if (field.type === "checkbox") field.checked = Boolean(state.get(field.name));
      else field.value = of(state, field.name);
    }
    try {
      if (filters(state) !== filteredBy) {
        const found = await filtered(state);
        if (mine !== turn) return;
        [shown, filteredBy] = [found, filters(state)];
      }
      listed(state);
      performance.measure("filter", { start: from, end: performance.now() });
      await detailed(state);
    } catch (error) {
      status.textContent = `${error.message}: was the whole directory copied?`;
    }
  };

  const changed = () => {
    timer = 0;
    const state = new URLSearchParams();
    const kept = read().get("case");
    if (kept) state.set("case", kept);
    const values = Object.fromEntries(new FormData(form));
    const next = link(state, values);
    if (next !== location.hash) location.replace(next);
  };
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(changed, event.target.type === "search" ? DELAY : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    changed();
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    timer = 0;
    location.replace(link(new URLSearchParams(), { case: read().get("case") }));
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("li")?.[step];
    if (next) {
      event.preventDefault();
      next.firstChild.focus();
    }
  });
  addEventListener("hashchange", update);
  update();
})();
