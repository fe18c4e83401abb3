import { type Dim, ops, type Value } from "../graph/index.js";

/**
 * Routing of rows to experts: `[tokens, n, ...]` has n places for every token, one for a flat mixture; s experts, of which each
 * place takes k.
 */
export interface Routes {
  /** `[tokens, n, k, s]`: 1 at the expert that is taken, 0 elsewhere; no gradient flows through it. */
  readonly chosen: Value;
  /** `[tokens, n, k]`: what each of them counts. */
  readonly scores: Value;
  /** `[tokens, n, k]`: the experts taken; undefined where every place takes all, in their order. */
  readonly experts: Value | undefined;
}

/** 1 at each index and 0 elsewhere, along a new last axis, of the dtype of `like`. */
export const oneHot = (indices: Value, length: number, like: Value): Value =>
  ops.cast(ops.equal(ops.unsqueeze(indices, -1), ops.arange(length)), like.dtype);

/** The experts of the `k` largest of `[tokens, n, s]` at each place (of equal ones the first), and what `score` makes of these. */
export function topRoutes(preferences: Value, k: number, score: (taken: Value) => Value): Routes {
  const { indices, values } = ops.topK(preferences, k);
  const chosen = oneHot(indices, preferences.shape.at(-1) as number, preferences);
  return { chosen, scores: score(values), experts: indices };
}

/** Each row divided by its sum. */
export const normalised = (scores: Value): Value =>
  ops.div(scores, ops.reduceSum(scores, [scores.shape.length - 1]));

/** Every expert at every place, weighed by `probabilities` `[tokens, n, s]`. */
export function allRoutes(probabilities: Value): Routes {
  const [tokens, places, experts] = probabilities.shape as [Dim, number, number];
  const chosen = oneHot(ops.arange(experts), experts, probabilities);
  return {
    chosen: ops.expand(chosen, [tokens, places, experts, experts], [probabilities]),
    scores: probabilities,
    experts: undefined,
  };
}

/** The scores as weights of all experts, `[tokens, n, s]`, zero for those that are not taken. */
export function weightsOf({ chosen, scores, experts }: Routes): Value {
  if (!experts) return scores;
  const [tokens, places, , count] = chosen.shape as Dim[];
  const none = ops.full([tokens, places, count] as Dim[], 0, scores.dtype, [scores]);
  return ops.scatterElements(none, experts, scores, 2);
}

/** How many of a place's routes go to each expert, `[tokens, n, s]`. */
export const countsOf = ({ chosen }: Pick<Routes, "chosen">): Value => ops.reduceSum(chosen, [2], false);

/** Sums over tokens and places of `[tokens, n, s]`, `[s]`; `mask` `[tokens]` leaves padding out. */
export const sumOverRows = (values: Value, mask: Value | undefined): Value =>
  ops.reduceSum(mask ? ops.mul(values, ops.unsqueeze(mask, 1, 2)) : values, [0, 1], false);

/** Places that count: tokens times n, a scalar. */
function countPlaces(values: Value, mask: Value | undefined): Value {
  const ones = ops.full([...values.shape.slice(0, 2), 1], 1, values.dtype, [values]);
  return ops.max(ops.reshape(sumOverRows(ones, mask), []), 1);
}

/** Mean over tokens and places of `[tokens, n, s]`, `[s]`; `mask` leaves padding out. */
export const meanOverRows = (values: Value, mask: Value | undefined): Value =>
  ops.div(sumOverRows(values, mask), countPlaces(values, mask));

/**
 * Balance loss of switch gates (arXiv 2101.03961): s times the sum over experts of the share of places that take it and its mean
 * probability; k at uniform routing.
 */
export function switchBalance(probabilities: Value, routes: Routes, mask: Value | undefined): Value {
  const [tokens, places, taken, experts] = routes.chosen.shape as [Dim, number, number, number];
  const flat = ops.reshape(routes.chosen, [tokens, places * taken, experts], [routes.chosen]);
  const share = ops.div(sumOverRows(flat, mask), countPlaces(probabilities, mask));
  const mean = meanOverRows(probabilities, mask);
  return ops.mul(ops.reduceSum(ops.mul(share, mean), undefined, false), probabilities.shape.at(-1) as number);
}

/** Variance over squared mean of a vector of at least two (the sample's variance, as PyTorch has it). */
export function squaredVariation(x: Value): Value {
  const mean = ops.reduceMean(x, undefined, false);
  const squares = ops.reduceSum(ops.square(ops.sub(x, mean)), undefined, false);
  const variance = ops.div(squares, (x.shape[0] as number) - 1);
  return ops.div(variance, ops.add(ops.square(mean), 1e-10));
}

/** The standard normal distribution function. */
const normalCdf = (x: Value): Value => ops.mul(ops.add(ops.erf(ops.mul(x, Math.SQRT1_2)), 1), 0.5);

/**
 * Probability that each expert stays among the `k` taken when its own noise is drawn again (arXiv 1701.06538, appendix A), for
 * k < s: `clean` logits, `noisy` ones with noise of standard deviation `spread`, all `[tokens, n, s]`.
 */
export function smoothLoad(clean: Value, noisy: Value, spread: Value, k: number): Value {
  const { values } = ops.topK(noisy, k + 1);
  const axis = values.shape.length - 1;
  const [last, next] = [ops.slice(values, axis, k - 1, k), ops.slice(values, axis, k, k + 1)];
  const threshold = ops.where(ops.greater(noisy, next), next, last);
  return normalCdf(ops.div(ops.sub(clean, threshold), spread));
}
