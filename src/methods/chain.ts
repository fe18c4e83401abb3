import { TunesmithError } from "../errors/index.js";
import type { Model, Parameter } from "../models/index.js";
import { type FitOptions, fit, type Objective, type Optimizer, type Schedule } from "../training/index.js";
import { adapt } from "./adapt.js";
import { type Adapted, adaptedModel } from "./adapted.js";
import { type Adapter, assemble } from "./adapter.js";
import { merge } from "./merge.js";
import type { Adaptation, SiteConfig } from "./method.js";

export interface ChainOptions<M extends Model>
  extends Omit<FitOptions, "optimizer" | "resume" | "runDir" | "saveEvery"> {
  /** One adaptation per link; ranks may fall along the chain. */
  readonly links: readonly Adaptation<SiteConfig>[];
  /** Updates of each link. Default: `steps` in equal parts. */
  readonly splits?: readonly number[];
  /** What is minimised, over the model as each link finds it. */
  readonly objective: (model: Adapted<M>) => Objective;
  /**
   * A fresh optimiser for a link: its moments start anew. `shift` moves a schedule of the whole run to where the link
   * begins; without it the schedule restarts.
   */
  readonly optimizer: (shift: (schedule: Schedule) => Schedule) => Optimizer;
  /** Keep the links apart on the base, instead of merging each. Default false; needed where the base is quantised. */
  readonly keepLinks?: boolean;
  /** Called when a link is done. */
  readonly onKnot?: (knot: Knot) => void;
}

export interface Knot {
  /** From 1. */
  readonly link: number;
  /** Updates done in all. */
  readonly step: number;
  readonly loss: number;
}

/**
 * Chain of LoRA (arXiv 2401.04151): train an adapter, merge it, start a fresh one on what is left, so that the whole update has
 * the rank of all links together for the memory of one. The base is not changed; the result is a plain model, or with
 * `keepLinks` the base with adapters `link1`, `link2`, ...
 *
 * Throws `config-invalid` for an empty chain or splits that are not those of `steps`, and what training and merging throw.
 *
 * @example
 * ```ts
 * import { lora, trainChain } from "tunesmith/methods";
 * import type { CausalLm, Model } from "tunesmith/models";
 * import { adamw, linear, type Objective } from "tunesmith/training";
 * export const tune = (model: CausalLm, objective: (model: Model) => Objective) =>
 *   trainChain(model, {
 *     links: [lora({ rank: 8 }), lora({ rank: 8 }), lora({ rank: 4 })],
 *     steps: 300,
 *     objective,
 *     optimizer: (shift) => adamw({ lr: 1e-3, schedule: shift(linear({ totalSteps: 300 })) }),
 *   });
 * ```
 */
export async function trainChain<M extends Model>(
  base: M,
  options: ChainOptions<M>,
): Promise<M | Adapted<M>> {
  const {
    links,
    steps,
    objective,
    optimizer,
    keepLinks = false,
    onKnot,
    seed = 0,
    splits: given,
    ...rest
  } = options;
  const splits = given ?? equalParts(steps, links.length);
  checkSplits(splits, links.length, steps);
  let model: M | Adapted<M> = base;
  let done = 0;
  for (const [at, link] of links.entries()) {
    const adapted: Adapted<M> = await adapt(model as M, link, { name: `link${at + 1}`, seed: seed + at });
    const first = done;
    const own = optimizer((schedule) => (step) => schedule(step + first));
    const share = Number(splits[at]);
    const { finalLoss } = await fit(objective(adapted), {
      ...rest,
      steps: share,
      optimizer: own,
      seed: seed + at,
    });
    done += share;
    onKnot?.({ link: at + 1, step: done, loss: finalLoss });
    model = keepLinks ? frozen(adapted) : plain(await merge(adapted));
  }
  return model;
}

const equalParts = (steps: number, count: number): number[] =>
  Array.from(
    { length: count },
    (_, at) => Math.floor(((at + 1) * steps) / count) - Math.floor((at * steps) / count),
  );

function checkSplits(splits: readonly number[], links: number, steps: number): void {
  const fits = splits.length === links && splits.every((share) => share > 0 && Number.isInteger(share));
  if (links > 0 && fits && splits.reduce((sum, share) => sum + share, 0) === steps) return;
  throw new TunesmithError(
    "config-invalid",
    `chain: ${links} links do not share out ${steps} updates as [${splits}]`,
    {
      fix: "give every link a positive number of updates, together those of the run",
    },
  );
}

/** A merged model without the receipt of its last link. */
function plain<M extends Model>(model: M & { readonly receipt?: unknown }): M {
  const { receipt: _, ...rest } = model;
  return rest as M;
}

/** The model with what its adapters hold no longer trained. */
function frozen<M extends Model>(model: Adapted<M>): Adapted<M> {
  const still = (each: Parameter): Parameter => ({ ...each, trainable: false });
  const all = (each: Readonly<Record<string, Parameter>>) =>
    Object.fromEntries(Object.entries(each).map(([key, own]) => [key, still(own)]));
  const adapters = [...model.adapters].map(([name, adapter]): [string, Adapter] => [
    name,
    assemble({
      ...adapter,
      sites: new Map(
        [...adapter.sites].map(([path, site]) => [path, { ...site, tensors: all(site.tensors) }]),
      ),
      shared: all(adapter.shared),
      saved: adapter.saved.map((each) => ({ ...each, parameter: still(each.parameter) })),
      tokens: adapter.tokens.map((each) => ({ ...each, parameter: still(each.parameter) })),
    }),
  ]);
  return adaptedModel(model.base, new Map(adapters), model.active);
}
