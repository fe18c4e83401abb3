import { ops, type Value } from "../../graph/index.js";
import type { SiteCall } from "../method.js";
import {
  allRoutes,
  countsOf,
  normalised,
  type Routes,
  smoothLoad,
  squaredVariation,
  sumOverRows,
  switchBalance,
  topRoutes,
  weightsOf,
} from "../routing.js";

/** How the places of one sub-layer choose among its experts. */
export interface GateShape {
  readonly kind: "switch" | "dense" | "noisy";
  readonly experts: number;
  /** Experts that each place takes. */
  readonly active: number;
}

/** Tensors of one sub-layer's gate. */
export interface GateTensors {
  /** Query network: `[g, in]`, `[g]`, `[g, g]`, `[g]`. */
  readonly into: Value;
  readonly intoBias: Value;
  readonly out: Value;
  readonly outBias: Value;
  /** `[experts, g]` */
  readonly keys: Value;
  /** `[experts, in]`, of a noisy gate. */
  readonly noise?: Value | undefined;
}

/** What a gate decides, and the loss that keeps its experts in use, if it has one. */
export interface Gated extends Routes {
  /** `[experts, g]`, what children see of the expert they hang from. */
  readonly seenKeys: Value;
  readonly balance: Value | undefined;
}

/** Places as rows of one matrix, which `linear` takes, and a result by token and place again. */
export const asRows = (known: Value): Value =>
  ops.reshape(known, [-1, known.shape.at(-1) as number], [known]);
export const byPlace = (rows: Value, like: Value): Value =>
  ops.reshape(rows, [...like.shape.slice(0, -1), rows.shape.at(-1) as number], [like]);

export const linear = (x: Value, weight: Value, bias?: Value): Value =>
  ops.gemm(x, weight, bias, { transB: true });

const unit = (x: Value): Value =>
  ops.div(x, ops.sqrt(ops.max(ops.reduceSum(ops.square(x), [x.shape.length - 1]), 1e-24)));

/** Noise that a gate never falls below while training. */
const LEAST_NOISE = 0.01;

type Surroundings = Pick<SiteCall, "training" | "noise" | "mask">;

/** Routes from each place, by what it knows: `known` `[tokens, places, in]`. `key` names its noise. */
export function gated(
  known: Value,
  tensors: GateTensors,
  shape: GateShape,
  around: Surroundings,
  key: string,
): Gated {
  const { into, intoBias, out, outBias, keys } = tensors;
  const query = linear(ops.relu(linear(asRows(known), into, intoBias)), out, outBias);
  if (shape.kind === "noisy") return noisyGate(known, query, tensors, shape, around, key);
  const p = byPlace(ops.softmax(linear(query, keys)), known);
  if (shape.kind === "dense") return { ...allRoutes(p), seenKeys: keys, balance: undefined };
  const routes = topRoutes(p, shape.active, shape.active > 1 ? normalised : (taken) => taken);
  return { ...routes, seenKeys: keys, balance: switchBalance(p, routes, around.mask) };
}

/** Cosine logits, noise while training; what is taken is weighed by its softmax, or where that is all 1, by the logit itself. */
function noisyGate(
  known: Value,
  query: Value,
  { keys, noise: spreads }: GateTensors,
  { experts, active }: GateShape,
  { training, noise, mask }: Surroundings,
  key: string,
): Gated {
  const seenKeys = unit(keys);
  const clean = byPlace(linear(unit(query), seenKeys), known);
  const score = (taken: Value) => (active > 1 ? ops.softmax(taken) : taken);
  if (!training) return { ...topRoutes(clean, active, score), seenKeys, balance: undefined };
  const wanted = byPlace(ops.softplus(linear(asRows(known), spreads as Value)), known);
  const spread = ops.add(wanted, LEAST_NOISE);
  const noisy = ops.add(clean, ops.mul(noise(clean, "normal", key), spread));
  const routes = topRoutes(noisy, active, score);
  const load = active < experts ? smoothLoad(clean, noisy, spread, active) : countsOf(routes);
  const balance =
    experts === 1
      ? undefined
      : ops.add(
          squaredVariation(sumOverRows(weightsOf(routes), mask)),
          squaredVariation(sumOverRows(load, mask)),
        );
  return { ...routes, seenKeys, balance };
}
