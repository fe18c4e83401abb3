import {
  type Adaptation,
  kradapter,
  lokr,
  lora,
  type MapConfig,
  map,
  type SiteConfig,
} from "../src/methods/index.js";
import {
  compute,
  disturb,
  gap,
  learn,
  lowRank,
  norm,
  normals,
  numbersOf,
  plant,
  plus,
  start,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

type Wrap = (inner: Adaptation<SiteConfig>, options?: Parameters<typeof map>[1]) => Adaptation<MapConfig>;

export interface MapProofOptions {
  /** The implementation under test. */
  readonly wrap?: Wrap;
  /** Optimiser steps of the learning check; 0 leaves it out. Default 2500. */
  readonly steps?: number;
}

/** That direction and size are apart, over three updates, and that a shrunk base is learned by one number. */
export function mapProof({ wrap = map as unknown as Wrap, steps = 2500 }: MapProofOptions = {}): Proof {
  return {
    name: "map",
    title: "MAP's directions do not know their sizes; a shrunk weight takes one number",
    papers: ["2505.23094"],
    async run() {
      const checks: Check[] = [];
      const inners = { LoRA: lora({ rank: 3 }), KRAdapter: kradapter(), LoKr: lokr({ rank: 2 }) };
      for (const [name, inner] of Object.entries(inners))
        checks.push(...(await identities(name, wrap, inner as unknown as Adaptation<SiteConfig>)));
      for (const seed of steps > 0 ? [1, 2, 3] : []) checks.push(...(await learning(wrap, seed, steps)));
      return checks;
    },
  };
}

const SHAPE = [12, 16] as const;

async function identities(name: string, wrap: Wrap, inner: Adaptation<SiteConfig>): Promise<Check[]> {
  const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
    what: `${name}: ${what}`,
    measured,
    expected: 0,
    tolerance,
  });
  const one = plant("map", SHAPE, new Float32Array(12 * 16));
  const adaptation = wrap(inner, { scalarLr: 1 });
  const live = await start(adaptation, [one]);
  const x = normals(5 * 16, "x");
  const atStart = await compute(adaptation, one, live, x);
  disturb(live, 0.3);
  const beta = Number(numbersOf(live, "map_beta")[0]);
  const alpha = 1 + Number(numbersOf(live, "map_alpha")[0]);
  const now = await compute(adaptation, one, live, x);
  const update = plus(now.weight, one.weight, -alpha);
  // Scaling one factor of the update scales the update, and must change nothing.
  const first = Object.entries(live.sites[0]?.tensors ?? {}).find(
    ([key, own]) => own.trainable && !key.startsWith("map_"),
  );
  const factor = first?.[1].tensor.data as Float32Array;
  factor.set(factor.map((value) => 3 * value));
  const tripled = await compute(adaptation, one, live, x);
  factor.set(factor.map((value) => -value));
  const turned = await compute(adaptation, one, live, x);
  return [
    zero("change at the start", gap(atStart.weight, one.weight)),
    zero("forward pass against merged weight", gap(now.forward, now.merged)),
    zero("|W' - a W| against |b| |W|", norm(update) / norm(one.weight) - Math.abs(beta)),
    zero("change when the update is tripled", gap(tripled.weight, now.weight)),
    zero("sum of update and turned update", norm(plus(plus(turned.weight, one.weight, -alpha), update))),
  ];
}

/** W* = 0.6 W + a matrix of rank 2: MAP fits it, LoRA of rank 2 cannot. */
async function learning(wrap: Wrap, seed: number, steps: number): Promise<Check[]> {
  const size = 48;
  const base = plant("map", [size, size], new Float32Array(size * size), "learning", seed);
  const extra = lowRank(size, size, 2, 0.0875, "learning", seed);
  const one = {
    ...base,
    target: plus(
      base.weight.map((value) => 0.6 * value),
      extra,
    ),
  };
  const inner = lora({ rank: 2, alpha: 2 }) as unknown as Adaptation<SiteConfig>;
  const options = { steps, seed, lr: 5e-3, decay: true };
  const plain = await learn(inner, [one], options);
  const wrapped = await learn(wrap(inner), [one], options);
  const alpha = 1 + 10 * Number(numbersOf(wrapped.live, "map_alpha")[0]);
  return [
    between(`seed ${seed}: relative error of LoRA`, Number(plain.errors[0]), 0.4, 1),
    between(`seed ${seed}: relative error of LoMAP`, Number(wrapped.errors[0]), 0, 0.02),
    between(`seed ${seed}: size of the base that was learned`, alpha, 0.58, 0.62),
  ];
}
