/** A pair of neighbouring symbols that may be merged next, with the words it was seen in. */
export interface PairEntry {
  readonly left: number;
  readonly right: number;
  count: number;
  readonly words: Set<number>;
}

/** A binary heap of pairs: the most frequent first, among equals the one with the lowest ids. */
export class PairQueue {
  private readonly items: PairEntry[] = [];

  push(entry: PairEntry): void {
    const items = this.items;
    let index = items.push(entry) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const above = items[parent] as PairEntry;
      if (!before(entry, above)) break;
      items[index] = above;
      index = parent;
    }
    items[index] = entry;
  }

  pop(): PairEntry | undefined {
    const items = this.items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= items.length) break;
      const right = items[child + 1];
      if (right && before(right, items[child] as PairEntry)) child++;
      const below = items[child] as PairEntry;
      if (!before(below, last)) break;
      items[index] = below;
      index = child;
    }
    items[index] = last;
    return top;
  }
}

function before(a: PairEntry, b: PairEntry): boolean {
  if (a.count !== b.count) return a.count > b.count;
  return a.left !== b.left ? a.left < b.left : a.right < b.right;
}
