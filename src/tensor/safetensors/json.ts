/**
 * The first key that occurs twice in one object of a JSON text, or undefined. `JSON.parse` silently keeps the last
 * of two, so that a crafted file could show different tensors to different readers.
 *
 * @param text Valid JSON (parse it first).
 */
export function duplicateKey(text: string): string | undefined {
  // One entry per open bracket: the keys of an object, or undefined for an array.
  const open: (Set<string> | undefined)[] = [];
  let keyComesNext = false;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case "{":
        open.push(new Set());
        keyComesNext = true;
        break;
      case "[":
        open.push(undefined);
        keyComesNext = false;
        break;
      case "}":
      case "]":
        open.pop();
        keyComesNext = false;
        break;
      case ",":
        keyComesNext = open.at(-1) !== undefined;
        break;
      case '"': {
        const end = stringEnd(text, i);
        const keys = open.at(-1);
        if (keyComesNext && keys !== undefined) {
          // Escapes make two spellings of one key: compare what they mean.
          const key = String(JSON.parse(text.slice(i, end + 1)));
          if (keys.has(key)) return key;
          keys.add(key);
        }
        keyComesNext = false;
        i = end;
        break;
      }
    }
  }
  return undefined;
}

function stringEnd(text: string, start: number): number {
  let end = start + 1;
  while (end < text.length && text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
  return end;
}
