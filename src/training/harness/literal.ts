/**
 * Python's `ast.literal_eval` for lists of texts and numbers, as templates write them: `['a', "b", 3]`. Undefined when
 * the text is none.
 */
export function listLiteral(text: string): (string | number)[] | undefined {
  const source = text.trim();
  if (!source.startsWith("[") || !source.endsWith("]")) return undefined;
  const ITEM = /\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(-?\d+(?:\.\d+)?))\s*(,|$)/sy;
  const inner = source.slice(1, -1).trim();
  const items: (string | number)[] = [];
  while (ITEM.lastIndex < inner.length) {
    const found = ITEM.exec(inner);
    if (!found) return undefined;
    const [, single, double, number] = found;
    items.push(number === undefined ? unescaped(single ?? double ?? "") : Number(number));
  }
  return items;
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r" };

const unescaped = (text: string): string =>
  text.replace(/\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|(.))/gis, (_, byte, unit, char: string) =>
    char === undefined ? String.fromCharCode(Number.parseInt(byte ?? unit, 16)) : (ESCAPES[char] ?? char),
  );
