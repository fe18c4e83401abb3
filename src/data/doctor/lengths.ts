/** How long things are. */
export interface Lengths {
  readonly count: number;
  readonly mean: number;
  readonly min: number;
  readonly median: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
  /** Bins of equal width up to the 99th percentile, and one above. */
  readonly bins: readonly { readonly from: number; readonly to: number; readonly count: number }[];
}

/** Lengths below this are counted exactly, longer ones to within 1 part in 32. */
const EXACT = 4096;
const PER_OCTAVE = 32;
const OCTAVES = 20;

/** Counts lengths in constant memory. */
export function lengthCounter() {
  const counts = new Float64Array(EXACT + PER_OCTAVE * OCTAVES);
  let [count, sum, min, max] = [0, 0, Number.POSITIVE_INFINITY, 0];
  return {
    add(length: number): void {
      const slot = slotOf(length);
      counts[slot] = (counts[slot] as number) + 1;
      count++;
      sum += length;
      min = Math.min(min, length);
      max = Math.max(max, length);
    },
    /** Undefined when nothing was counted. */
    report(bins = 8): Lengths | undefined {
      if (count === 0) return undefined;
      const quantile = (share: number) => Math.max(min, Math.min(max, quantileOf(counts, share * count)));
      const p99 = quantile(0.99);
      return {
        count,
        mean: sum / count,
        min,
        median: quantile(0.5),
        p95: quantile(0.95),
        p99,
        max,
        bins: binsOf(counts, p99, max, bins),
      };
    },
  };
}

const slotOf = (length: number): number =>
  length < EXACT
    ? length
    : Math.min(EXACT + PER_OCTAVE * OCTAVES - 1, EXACT + Math.floor(Math.log2(length / EXACT) * PER_OCTAVE));

/** The smallest length of a slot. */
const lengthAt = (slot: number): number =>
  slot < EXACT ? slot : Math.ceil(EXACT * 2 ** ((slot - EXACT) / PER_OCTAVE));

function quantileOf(counts: Float64Array, wanted: number): number {
  let seen = 0;
  for (let slot = 0; slot < counts.length; slot++) {
    seen += counts[slot] as number;
    if (seen >= wanted) return lengthAt(slot);
  }
  return lengthAt(counts.length - 1);
}

function binsOf(counts: Float64Array, p99: number, max: number, bins: number) {
  const width = Math.max(1, Math.ceil((p99 + 1) / bins));
  const edges = Array.from({ length: bins }, (_, bin) => ({
    from: bin * width,
    to: (bin + 1) * width - 1,
    count: 0,
  }));
  const top = { from: bins * width, to: Math.max(max, bins * width), count: 0 };
  counts.forEach((number, slot) => {
    const bin = edges[Math.floor(lengthAt(slot) / width)] ?? top;
    bin.count += number;
  });
  return [...edges, ...(top.count > 0 ? [top] : [])];
}
