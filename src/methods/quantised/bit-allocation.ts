import { TunesmithError } from "../../errors/index.js";

/** A matrix in a choice of ways: what each costs, and the bits it takes. */
export interface AllocationItem {
  readonly costs: readonly number[];
  readonly bits: readonly number[];
}

export interface Allocation {
  /** One of each item's ways. */
  readonly chosen: readonly number[];
  /** Sums over the chosen ways. */
  readonly cost: number;
  readonly bits: number;
  /** No choice within the budget costs less: the optimum where one way may be mixed of two. */
  readonly bound: number;
  /** Whether the search went to its end: no choice within the budget is better. */
  readonly exact: boolean;
}

/** A way worth choosing: every one with fewer bits costs more. */
interface Way {
  readonly index: number;
  readonly bits: number;
  readonly cost: number;
}

/**
 * The cheapest choice of one way for each item within a budget of bits: a multiple-choice knapsack, as LQ-LoRA (arXiv
 * 2311.12023) has it. Choices are built item by item; one that needs no fewer bits and costs no less than another, or whose
 * best completion (the mixed optimum of the items to come) is no better than a choice found greedily, is dropped.
 *
 * @param options.maxStates Choices kept at a time; beyond, those with the best completions, and `exact` is false. Default 20,000.
 * @throws `config-invalid` where even the smallest ways exceed the budget.
 * @example
 * ```ts
 * import { allocateBits } from "tunesmith/methods";
 * const items = [{ costs: [4, 1], bits: [200, 300] }, { costs: [9, 1], bits: [200, 300] }];
 * console.log(allocateBits(items, 500).chosen); // [0, 1]
 * ```
 */
export function allocateBits(
  items: readonly AllocationItem[],
  budget: number,
  { maxStates = 20_000 }: { readonly maxStates?: number } = {},
): Allocation {
  const ways = items.map(worthwhile);
  const least = ways.reduce((sum, [first]) => sum + (first?.bits ?? Number.POSITIVE_INFINITY), 0);
  if (!(least <= budget)) {
    throw new TunesmithError(
      "config-invalid",
      `the smallest choice takes ${least} bits, the budget is ${budget}`,
      {
        fix: "raise the budget, or allow ways of fewer bits",
        details: { least, budget },
      },
    );
  }
  const rests = relaxations(ways);
  const bound = (rests[0] as Relaxation).best(budget);
  const greedy = greedyChoice(ways, budget);
  const { chosen, exact } = search(ways, rests, budget, greedy, maxStates);
  const sum = (of: (way: Way) => number) => chosen.reduce((total, way) => total + of(way), 0);
  return {
    chosen: chosen.map(({ index }) => index),
    cost: sum(({ cost }) => cost),
    bits: sum(({ bits }) => bits),
    bound,
    exact,
  };
}

function worthwhile({ costs, bits }: AllocationItem): Way[] {
  const all = costs.map((cost, index): Way => ({ index, cost, bits: bits[index] as number }));
  const sorted = all
    .filter(({ cost }) => Number.isFinite(cost))
    .sort((a, b) => a.bits - b.bits || a.cost - b.cost);
  let best = Number.POSITIVE_INFINITY;
  return sorted.filter(({ cost }) => {
    if (cost >= best) return false;
    best = cost;
    return true;
  });
}

/** Those of the ways, by bits, that a mixture of two others does not beat. */
function hullOf(ways: readonly Way[]): Way[] {
  const hull: Way[] = [];
  for (const way of ways) {
    while (hull.length > 1 && gain(hull.at(-1) as Way, way) >= gain(hull.at(-2) as Way, hull.at(-1) as Way))
      hull.pop();
    hull.push(way);
  }
  return hull;
}

/** What a bit brings between two ways. */
const gain = (from: Way, to: Way): number => (from.cost - to.cost) / (to.bits - from.bits);

interface Relaxation {
  /** The least cost of these items within so many bits, where ways may be mixed. */
  best(bits: number): number;
  /** Bits of the smallest ways. */
  readonly least: number;
}

/** Of the items from each on, and of none. */
function relaxations(ways: readonly (readonly Way[])[]): Relaxation[] {
  const steps: { bits: number; cost: number }[] = [];
  const found: Relaxation[] = [relaxation(steps, 0, 0)];
  let [least, cost] = [0, 0];
  for (const own of ways.toReversed()) {
    const hull = hullOf(own);
    least += (hull[0] as Way).bits;
    cost += (hull[0] as Way).cost;
    for (const [at, way] of hull.slice(1).entries()) {
      const before = hull[at] as Way;
      steps.push({ bits: way.bits - before.bits, cost: before.cost - way.cost });
    }
    found.push(relaxation(steps, least, cost));
  }
  return found.reverse();
}

function relaxation(
  given: readonly { bits: number; cost: number }[],
  least: number,
  cost: number,
): Relaxation {
  const steps = given.toSorted((a, b) => b.cost / b.bits - a.cost / a.bits);
  const [bits, saved] = [[0], [0]];
  for (const step of steps) {
    bits.push((bits.at(-1) as number) + step.bits);
    saved.push((saved.at(-1) as number) + step.cost);
  }
  return {
    least,
    best(budget) {
      const room = budget - least;
      if (room < 0) return Number.POSITIVE_INFINITY;
      let [low, high] = [0, steps.length];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if ((bits[middle] as number) <= room) low = middle;
        else high = middle - 1;
      }
      const next = steps[low];
      const part = next ? (next.cost * (room - (bits[low] as number))) / next.bits : 0;
      return cost - (saved[low] as number) - part;
    },
  };
}

/** From the smallest ways, always the step that brings most for a bit and still fits. */
function greedyChoice(ways: readonly (readonly Way[])[], budget: number): Way[] {
  const chosen = ways.map((own) => own[0] as Way);
  let room = budget - chosen.reduce((sum, { bits }) => sum + bits, 0);
  for (;;) {
    let best: { item: number; way: Way; gain: number } | undefined;
    for (const [item, own] of ways.entries()) {
      const now = chosen[item] as Way;
      for (const way of own) {
        if (way.bits <= now.bits || way.bits - now.bits > room) continue;
        const brings = gain(now, way);
        if (!best || brings > best.gain) best = { item, way, gain: brings };
      }
    }
    if (!best) return chosen;
    room -= best.way.bits - (chosen[best.item] as Way).bits;
    chosen[best.item] = best.way;
  }
}

/** The ways of the first items, chosen. */
interface State {
  readonly bits: number;
  readonly cost: number;
  readonly way?: Way;
  readonly before?: State;
}

function search(
  ways: readonly (readonly Way[])[],
  rests: readonly Relaxation[],
  budget: number,
  greedy: readonly Way[],
  maxStates: number,
): { chosen: readonly Way[]; exact: boolean } {
  const known = greedy.reduce((sum, { cost }) => sum + cost, 0);
  let states: State[] = [{ bits: 0, cost: 0 }];
  let exact = true;
  for (const [item, own] of ways.entries()) {
    const rest = rests[item + 1] as Relaxation;
    const grown: { state: State; best: number }[] = [];
    for (const before of states)
      for (const way of own) {
        const state = { bits: before.bits + way.bits, cost: before.cost + way.cost, way, before };
        const best = state.cost + rest.best(budget - state.bits);
        if (best < known) grown.push({ state, best });
      }
    grown.sort((a, b) => a.state.bits - b.state.bits || a.state.cost - b.state.cost);
    let least = Number.POSITIVE_INFINITY;
    let kept = grown.filter(({ state: { cost } }) => {
      if (cost >= least) return false;
      least = cost;
      return true;
    });
    if (kept.length > maxStates) {
      exact = false;
      kept = kept.sort((a, b) => a.best - b.best).slice(0, maxStates);
    }
    states = kept.map(({ state }) => state);
  }
  const best = states.reduce<State | undefined>((a, b) => (a && a.cost <= b.cost ? a : b), undefined);
  if (!best || best.cost >= known) return { chosen: greedy, exact };
  const chosen: Way[] = [];
  for (let state: State | undefined = best; state?.way; state = state.before) chosen.push(state.way);
  return { chosen: chosen.reverse(), exact };
}
