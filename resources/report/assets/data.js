// The site's data are scripts that call the functions below: a page opened from disk may load scripts, but not fetch.
"use strict";
window.AX = (() => {
  const KEPT = 24; // chunks of details in memory
  const chunks = new Map();
  const shards = new Map();
  const waiting = new Map();

  const script = (source) => {
    if (!waiting.has(source)) {
      waiting.set(
        source,
        new Promise((resolve, reject) => {
          const element = document.createElement("script");
          element.src = source;
          element.onload = () => {
            element.remove();
            resolve();
          };
          element.onerror = () => {
            waiting.delete(source);
            reject(new Error(`${source} cannot be read`));
          };
          document.head.append(element);
        }),
      );
    }
    return waiting.get(source);
  };

  // A value from the compressed form that site/javascript.py describes.
  const unpacked = async (size, text) => {
    const bytes = new Uint8Array(size);
    let [place, held, bits] = [0, 0, 0]; // a byte beyond the size is padding, and bytes has no place for it
    for (let i = 0; i < text.length; i++) {
      held = (held << 15) | (text.charCodeAt(i) - 0x5000);
      for (bits += 15; bits >= 8; bits -= 8) bytes[place++] = held >> (bits - 8);
    }
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(inflated).text());
  };

  const AX = {
    setIndex(index) {
      AX.index = index;
    },
    setStudy(numbers, methods) {
      AX.study = { numbers, methods };
    },
    addChunk(number, size, packed) {
      chunks.set(number, unpacked(size, packed));
    },
    addShard(number, size, packed) {
      shards.set(number, unpacked(size, packed));
    },

    // The details of a case by its number.
    async details(number) {
      const place = Math.floor(number / AX.index.chunk);
      const source = `data/details/${place}.js`;
      await script(source);
      const cases = chunks.get(place);
      chunks.delete(place); // move it to the end, so that the first is the least recently used
      chunks.set(place, cases);
      if (chunks.size > KEPT) {
        const oldest = chunks.keys().next().value;
        chunks.delete(oldest);
        waiting.delete(`data/details/${oldest}.js`);
      }
      return (await cases)[number - place * AX.index.chunk];
    },

    // The words and postings in one file of the word index.
    async words(place) {
      await script(`data/words/${place}.js`);
      return shards.get(place);
    },

    // Calls visit(case number) for each number in a posting, whose two forms site/javascript.py describes.
    posting(text, visit) {
      if (text[0] === "!") {
        const bytes = atob(text.slice(1));
        for (let place = 0; place < bytes.length; place++) {
          const byte = bytes.charCodeAt(place);
          for (let bit = 0; byte >> bit; bit++) if ((byte >> bit) & 1) visit(place * 8 + bit);
        }
      } else if (text) {
        let number = 0;
        for (const step of text.split(",")) visit((number += Number(step)));
      }
    },

    // An element; text among its children stays text.
    element(tag, attributes, ...children) {
      const element = document.createElement(tag);
      for (const [name, value] of Object.entries(attributes || {})) {
        if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
      }
      element.append(...children.filter((child) => child !== null && child !== undefined));
      return element;
    },
  };
  return AX;
})();
