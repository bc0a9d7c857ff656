// Cases that have every word of a query in one of their texts. A word of three letters or more also finds its longer
// forms.
"use strict";
(() => {
  // As in search.py.
  const WORD = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}\p{M}_]+/gu;
  const LONGEST = 40;
  const PREFIX = 3;
  const found = new Map();

  const words = (query) =>
    [...new Set(query.normalize("NFKC").toLowerCase().match(WORD) || [])].map((word) => [...word].slice(0, LONGEST).join(""));

  const cases = async (word) => {
    if (found.has(word)) return found.get(word);
    const { shards, count } = AX.told;
    const prefix = [...word].length >= PREFIX;
    const last = prefix ? word + "\u{10ffff}" : word;
    const places = shards.flatMap(([from, to], place) => (to < word || from > last ? [] : [place]));
    const mask = new Uint8Array(count);
    for (const part of await Promise.all(places.map(AX.words))) {
      part.words.forEach((one, place) => {
        if (one === word || (prefix && one.startsWith(word))) AX.posting(part.postings[place], (number) => (mask[number] = 1));
      });
    }
    found.set(word, mask);
    return mask;
  };

  // A mask over all cases; null without words.
  AX.search = async (query) => {
    const masks = await Promise.all(words(query).map(cases));
    if (!masks.length) return null;
    // A new one in any case: callers narrow it, and that of a word is kept.
    return masks.reduce((all, mask) => all.map((value, number) => value & mask[number]), new Uint8Array(AX.told.count).fill(1));
  };
  AX.queryWords = words;
})();
