import { BINS, type Fingerprint, GROUP_BINS, GROUPS, mix, similarity } from "./fingerprint.js";

/** Where a row came from: the place of its part in the list of parts, and its number. */
export interface Origin {
  readonly part: number;
  readonly row: number;
}

/**
 * A set of 64-bit hashes with a number each, of bounded size: once `maxBytes` are used up nothing is added any more, and
 * `full` says so.
 */
export function hashTable(maxBytes: number) {
  const BYTES_PER_SLOT = 12;
  let slots = 1 << 12;
  let keys = new Uint32Array(2 * slots);
  let values = new Uint32Array(slots).fill(EMPTY);
  let used = 0;
  let full = false;
  const find = (table: Uint32Array, taken: Uint32Array, high: number, low: number): number => {
    const mask = taken.length - 1;
    let slot = high & mask;
    while (taken[slot] !== EMPTY && (table[2 * slot] !== high || table[2 * slot + 1] !== low)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  };
  const grow = () => {
    if (2 * slots * BYTES_PER_SLOT > maxBytes) {
      full = true;
      return;
    }
    const [oldKeys, oldValues] = [keys, values];
    slots *= 2;
    keys = new Uint32Array(2 * slots);
    values = new Uint32Array(slots).fill(EMPTY);
    oldValues.forEach((value, slot) => {
      if (value === EMPTY) return;
      const [high, low] = [oldKeys[2 * slot] as number, oldKeys[2 * slot + 1] as number];
      const to = find(keys, values, high, low);
      keys[2 * to] = high;
      keys[2 * to + 1] = low;
      values[to] = value;
    });
  };
  return {
    /** The number that this hash was added with before; else adds it. */
    add(high: number, low: number, value: number): number | undefined {
      const slot = find(keys, values, high, low);
      const known = values[slot] as number;
      if (known !== EMPTY) return known;
      // Probing gets slow beyond this.
      if (used >= 0.6 * slots) {
        grow();
        if (full) return undefined;
        return this.add(high, low, value);
      }
      keys[2 * slot] = high;
      keys[2 * slot + 1] = low;
      values[slot] = value;
      used++;
      return undefined;
    },
    get full() {
      return full;
    },
  };
}

const EMPTY = 0xffffffff;

/**
 * Signatures of texts, found again by similar ones. Of bounded size like `hashTable`.
 */
export function signatureTable(maxBytes: number, threshold: number) {
  const BYTES_PER_ROW = BINS + 4 + GROUPS * 4;
  // Powers of two: the tables of heads are as long.
  const most = Math.max(1024, 2 ** Math.floor(Math.log2(maxBytes / BYTES_PER_ROW)));
  let capacity = Math.min(most, 4096);
  let signatures = new Uint8Array(capacity * BINS);
  let values = new Uint32Array(capacity);
  let heads = newHeads(capacity);
  let count = 0;

  const slotOf = (group: number, of: Uint8Array, at: number): number => {
    let hash = group + 1;
    for (let bin = 0; bin < GROUP_BINS; bin++) {
      hash = Math.imul(hash ^ (of[at + group * GROUP_BINS + bin] as number), 0x01000193);
    }
    const size = heads.length / GROUPS;
    return group * size + (mix(hash) & (size - 1));
  };
  const enter = (entry: number) => {
    for (let group = 0; group < GROUPS; group++) heads[slotOf(group, signatures, entry * BINS)] = entry;
  };
  const grow = () => {
    capacity = Math.min(most, 2 * capacity);
    const grown = new Uint8Array(capacity * BINS);
    grown.set(signatures);
    signatures = grown;
    const numbers = new Uint32Array(capacity);
    numbers.set(values);
    values = numbers;
    heads = newHeads(capacity);
    for (let entry = 0; entry < count; entry++) enter(entry);
  };
  return {
    /** The number of a text that is like this one, if there is one; else adds it. */
    add({ signature }: Fingerprint, value: number): number | undefined {
      for (let group = 0; group < GROUPS; group++) {
        const entry = heads[slotOf(group, signature, 0)] as number;
        if (entry === EMPTY) continue;
        if (similarity(signature, 0, signatures, entry * BINS) >= threshold) return values[entry];
      }
      if (count === capacity && capacity < most) grow();
      if (count === capacity) return undefined;
      signatures.set(signature, count * BINS);
      values[count] = value;
      enter(count++);
      return undefined;
    },
    get full() {
      return count === most;
    },
  };
}

/** For each group a table of the entry that came last with its hash. */
const newHeads = (capacity: number) => new Uint32Array(GROUPS * capacity).fill(EMPTY);
