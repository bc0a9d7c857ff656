// Finds cases whose texts contain every word of a query. A word of three letters or more also matches longer words
// that start with it.
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
    const { shards, count } = AX.index;
    const prefix = [...word].length >= PREFIX;
    const last = prefix ? word + "\u{10ffff}" : word;
    const places = shards.flatMap(([from, to], place) => (to < word || from > last ? [] : [place]));
    const mask = new Uint8Array(count);
    for (const [words, postings] of await Promise.all(places.map(AX.words))) {
      words.forEach((one, place) => {
        if (one === word || (prefix && one.startsWith(word))) AX.posting(postings[place], (number) => (mask[number] = 1));
      });
    }
    found.set(word, mask);
    return mask;
  };

  // A mask over all cases; null if the query has no words.
  AX.search = async (query) => {
    const masks = await Promise.all(words(query).map(cases));
    if (!masks.length) return null;
    // Always a new mask: callers narrow it further, while each word's mask is cached.
    return masks.reduce((all, mask) => all.map((value, number) => value & mask[number]), new Uint8Array(AX.index.count).fill(1));
  };
  AX.queryWords = words;
})();
