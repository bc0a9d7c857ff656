// Shows one case: signals, golden preference, both responses, the methods' descriptions and the judges' verdicts.
"use strict";
(() => {
  const e = (...all) => AX.element(...all);
  const REASONING = 0, PREFERENCE = 1, FORMAT = 2, FINISH = 3, PROMPT_TOKENS = 4, COMPLETION_TOKENS = 5;
  const label = (method) => AX.index.methods[method][1];
  const number = (value) => (value === null ? "–" : value.toFixed(3));
  const verdict = (right) => e("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong");
  const text = (name, value, className) =>
    e("div", { class: `text ${className || ""}` }, e("h4", null, name), e("div", { class: "verbatim", dir: "auto" }, value));

  const signals = (one) => {
    if (one.rendered) return text("Prompt as published", one.rendered);
    const items = [
      ...one.pairs.map(([prompt, chosen, rejected], place) => [
        text(`Post ${place + 1}`, prompt),
        e("div", { class: "pair" }, text("Chosen", chosen, "chosen"), text("Rejected", rejected, "rejected")),
      ]),
      ...one.ugc.map(([prompt, comment], place) => [text(`Post ${one.pairs.length + place + 1}`, prompt), text("The user's comment", comment, "chosen")]),
    ];
    return e("ol", { class: "signals" }, ...items.map((parts) => e("li", null, ...parts)));
  };

  const judged = (one, method) => {
    const rows = one.judged.filter((row) => row[1] === method);
    if (!rows.length) return e("p", { class: "soft" }, "Not judged.");
    const head = [["judge"], ["verdict"], ["p, first", "probability of the chosen response when it is shown first"], ["p, second", "probability of the chosen response when it is shown second"]];
    return e(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": `Judgements of ${label(method)}` },
      e(
        "table",
        { class: "plain" },
        e("thead", null, e("tr", null, ...head.map(([name, title]) => e("th", { scope: "col", title }, name)))),
        e(
          "tbody",
          null,
          ...rows.map(([judge, , ab, ba, correct, flip, unparsed]) =>
            e(
              "tr",
              null,
              e("th", { scope: "row" }, AX.index.judges[judge]),
              e("td", null, verdict(correct), flip ? e("span", { class: "note" }, "orders disagree") : null, unparsed ? e("span", { class: "note" }, `${unparsed} unparsed`) : null),
              e("td", { class: "number" }, number(ab)),
              e("td", { class: "number" }, number(ba)),
            ),
          ),
        ),
      ),
    );
  };

  const won = (one, method) =>
    one.won
      .filter((row) => row[0] === method || row[1] === method)
      .map(([a, b, outcome]) => {
        const mine = a === method ? "a" : "b";
        const result = outcome === mine ? "wins" : outcome === "a" || outcome === "b" ? "loses" : "ties";
        return `${result} against ${label(a === method ? b : a)}`;
      })
      .join("; ");

  const method = (one, place) => {
    const described = one.described[place];
    const parts = [e("h3", null, label(place)), judged(one, place)];
    if (described) {
      const facts = [
        ["finish reason", described[FINISH] || "–"],
        ["format", described[FORMAT] === null ? null : described[FORMAT] ? "right" : "wrong"],
        ["tokens", described[COMPLETION_TOKENS] ? `${described[PROMPT_TOKENS]} in, ${described[COMPLETION_TOKENS]} out` : null],
      ];
      parts.push(text("Preference description", described[PREFERENCE] || "(empty)", "description"));
      if (described[REASONING]) parts.push(text("Reasoning", described[REASONING], "reasoning"));
      parts.push(
        e("dl", { class: "facts" }, ...facts.filter(([, value]) => value !== null).map(([name, value]) => e("div", null, e("dt", null, name), e("dd", null, value)))),
      );
    } else {
      parts.push(e("p", { class: "soft" }, "This method writes no description."));
    }
    if (one.written[place] !== undefined) {
      parts.push(text("Response written under this description", one.written[place]));
      const against = won(one, place);
      if (against) parts.push(e("p", { class: "soft" }, `The response ${against}.`));
    }
    return e("section", { class: "method" }, ...parts);
  };

  // A piece of a description since the step before: lines mark it for those who see no colour, words for those who hear it.
  const piece = ([kind, words]) => {
    if (kind === "same") return words;
    return e(kind === "added" ? "ins" : "del", null, e("span", { class: "away" }, ` ${kind}: `), words, e("span", { class: "away" }, " end. "));
  };

  // A method's descriptions at the steps of a stream, side by side, each with what it added and dropped.
  const stream = (one, steps, place) => {
    const described = steps.filter((step) => step.one.described[place]);
    if (described.length < 2) return null;
    return e(
      "section",
      { class: "stream" },
      e("h3", null, `After each chunk: ${label(place)}`),
      e("p", { class: "soft" }, e("ins", null, "added"), " and ", e("del", null, "dropped"), " since the step before"),
      e(
        "ol",
        null,
        ...described.map(({ one: step, href }) => {
          const changed = step.changed[place];
          const verdicts = step.judged.filter((row) => row[1] === place).map((row) => [AX.index.judges[row[0]], verdict(row[4])]);
          const words = changed ? changed.map(piece) : [step.described[place][PREFERENCE]];
          const signals = step.chunks.at(-1);
          return e(
            "li",
            { "aria-current": step.id === one.id ? "step" : null },
            e("h4", null, e("a", { href }, `Chunk ${step.chunks.length}`), `: ${signals} ${signals === 1 ? "signal" : "signals"}`),
            verdicts.length ? e("p", { class: "soft" }, ...verdicts.flatMap(([judge, sign], at) => [`${at ? ", " : ""}${judge} `, sign])) : null,
            e("div", { class: "verbatim", dir: "auto" }, ...(words.some((word) => word) ? words : ["(empty)"])),
          );
        }),
      ),
    );
  };

  // `methods`: positions in the index. `heading`: the tag of the case's heading. `steps`: those of its stream, if any.
  AX.show = (one, methods, heading, steps = []) =>
    e(
      "div",
      { class: "onecase" },
      e(heading, { class: "id" }, e("span", null, one.benchmark), " ", e("code", null, one.id)),
      e(
        "ul",
        { class: "directions", "aria-label": "Dimensions of the preference" },
        ...one.directions.map(([name, sign]) => e("li", null, `${sign < 0 ? "−" : "+"} ${name}`)),
      ),
      text("Golden preference", one.golden, "golden"),
      e("section", { class: "target" }, text("Post", one.prompt), e("div", { class: "pair" }, text("Chosen", one.chosen, "chosen"), text("Rejected", one.rejected, "rejected"))),
      e("details", { class: "history" }, e("summary", null, one.rendered ? "The user's signals" : `The user's signals: ${one.pairs.length + one.ugc.length}`), signals(one)),
      e("div", { class: "methods" }, ...methods.map((place) => method(one, place))),
      ...methods.map((place) => stream(one, steps, place)),
    );
})();
