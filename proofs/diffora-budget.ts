import {
  type Adapted,
  adapt,
  diffora,
  freeze,
  lora,
  type ModuleTable,
  type searchModules,
  unfreeze,
} from "../src/methods/index.js";
import type { CausalLm } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { adamw, nextToken } from "../src/training/index.js";
import { between, type Check } from "./proof.js";
import { freshLm, heldOut, type Language, language, learn } from "./tiny-lm.js";

const targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"];
const [LAYERS, WIDTH, PER_LAYER, RANK] = [4, 32, 2, 6];
/**
 * The search is longer than the run. With 120 steps instead of 400 the choice was worse than a random one for two of three seeds
 * (loss over loss 0.968, 1.031, 1.033): gates need their time to part.
 */
const STEPS = { base: 1200, search: 400, run: 300 };
const RATE = 1e-2;

/**
 * A transformer of four layers learns a language, and then one of whose rules a share are others: with updates at the modules
 * that the search chooses, at as many of each layer drawn at random, and at all with a rank that costs as much.
 */
export async function budgeted(search: typeof searchModules): Promise<Check[]> {
  const base = await pretrained();
  const checks: Check[] = [];
  for (const seed of [1, 2, 3]) {
    const data = language({ seed: 10, shifted: 0.1 + 0.1 * seed, rows: 400 });
    const { model, table } = await searched(search, base, data, seed);
    const at = (rank: number, modules: readonly string[]) =>
      adapt(base, lora({ rank, alpha: 2 * rank, targets: [...modules] }), { seed });
    const chosen = await tuned(model, data);
    const random = await tuned(await at(RANK, drawn(table, seed)), data);
    const all = await tuned(await at((RANK * PER_LAYER) / targets.length, targets), data);
    checks.push(
      between(`seed ${seed}: held-out loss over that of modules drawn at random`, chosen / random, 0.5, 1),
      between(`seed ${seed}: held-out loss over that of all modules, rank 2`, chosen / all, 0.5, 1.05),
    );
  }
  return checks;
}

const searched = (search: typeof searchModules, base: CausalLm, { train }: Language, seed: number) =>
  search(base, diffora({ rank: RANK, alpha: 2 * RANK, perLayer: PER_LAYER, targets, gateLr: 5 * RATE }), {
    objective(model, half) {
      const [from, to] = half === "updates" ? [0, train.length / 2] : [train.length / 2, train.length];
      return nextToken(model, { train: train.slice(from, to), batchSize: 16, lengths: [32], padId: 0 });
    },
    ...{ steps: STEPS.search, optimizer: adamw({ lr: RATE, weightDecay: 0 }), seed },
    session: { threads: 1, worker: false },
  });

async function pretrained(): Promise<CausalLm> {
  const model = await unfreeze(freshLm(LAYERS, WIDTH));
  await learn(model, language({ seed: 10, rows: 4000 }), { steps: STEPS.base, lr: 5e-3 });
  return freeze(model);
}

async function tuned(model: Adapted<CausalLm>, data: Language): Promise<number> {
  await learn(model, data, { steps: STEPS.run, lr: RATE });
  return heldOut(model, data);
}

/** As many modules of each layer. */
const drawn = ({ layers, kinds }: ModuleTable, seed: number): string[] =>
  layers.flatMap((layer, row) => {
    const order = Array.from(rng(seed, "random-kinds", row).permutation(kinds.length)).slice(0, PER_LAYER);
    return order.map((at) => `${layer}.${kinds[at]}`);
  });
