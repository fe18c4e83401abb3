import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constant } from "../src/graph/index.js";
import {
  applyPatch,
  composePatches,
  freeze,
  loadPatch,
  ltSft,
  patchOf,
  pulledToBase,
  type SparsePatch,
  savePatch,
  unfreeze,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { tensor } from "../src/tensor/index.js";
import {
  accuracy,
  atLeast,
  logits,
  network,
  normals,
  numbersOf,
  type Points,
  pretrain,
  tune,
} from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface LtSftProofOptions {
  /** The implementation under test. */
  readonly make?: typeof ltSft;
  /** Updates of each phase; 0 leaves out what patches keep together. Default 600. */
  readonly steps?: number;
}

const [GROUP, HIDDEN, CLASSES] = [16, 512, 4];
const WIDTH = 2 * GROUP;
const PROPORTION = 0.05;

/**
 * What composable sparse fine-tuning must do: its entries are those that fine-tuning moved farthest over all weights
 * together, nothing else changes, and patches of two tasks that are added up keep both, where whole differences disturb each other.
 */
export function ltSftProof({ make = ltSft, steps = 600 }: LtSftProofOptions = {}): Proof {
  return {
    name: "lt-sft",
    title: "sparse patches of two tasks add up",
    papers: ["2110.07560"],
    async run() {
      const base = await start();
      const checks = [...(await identities(make, base)), await pull(base)];
      return steps > 0 ? [...checks, ...(await composition(make, base, steps))] : checks;
    },
  };
}

/** Points whose first or second half of features tells the class; the other half is noise. */
function task(name: string, half: 0 | 1, count: number): Points {
  const centres = normals(CLASSES * GROUP, 0.7, "centres", name.split(" ")[0] ?? "");
  const x = normals(count * WIDTH, 1, "points", name);
  const labels = Array.from({ length: count }, (_, row) => row % CLASSES);
  for (const [row, label] of labels.entries())
    for (let at = 0; at < GROUP; at++) {
      const place = row * WIDTH + half * GROUP + at;
      x[place] = Number(x[place]) + Number(centres[label * GROUP + at]);
    }
  return { width: WIDTH, x, labels };
}

/** A network that knows something else. */
const start = (): Promise<TensorModel> =>
  pretrain(network([WIDTH, HIDDEN, CLASSES], { seed: "lt-sft" }), task("old train", 0, 4000), {
    steps: 400,
    lr: 1e-3,
  });

const settings = (steps: number) => ({ steps, lr: 2e-3 });

/** Both phases over one task. */
async function twoPhases(make: typeof ltSft, base: TensorModel, points: Points, steps: number) {
  const full = await unfreeze(base);
  await tune(full, points, settings(steps));
  const tuned = freeze(full);
  const sparse = await make(base, { tuned, proportion: PROPORTION });
  await tune(sparse, points, settings(steps));
  return { tuned, dense: await patchOf(full), model: freeze(sparse), patch: await patchOf(sparse) };
}

const gap = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = 0;
  for (let at = 0; at < a.length; at++) most = Math.max(most, Math.abs(Number(a[at]) - Number(b[at])));
  return most;
};

/** Changed entries that a full sort of all moves would not choose. */
async function outside(base: TensorModel, tuned: TensorModel, model: TensorModel): Promise<number> {
  const moves: { size: number; isChanged: boolean }[] = [];
  for (const name of base.weights.keys()) {
    const [before, far, now] = await Promise.all([base, tuned, model].map((each) => numbersOf(each, name)));
    before?.forEach((value, at) => {
      moves.push({ size: Math.abs(Number(far?.[at]) - value), isChanged: now?.[at] !== value });
    });
  }
  const count = Math.floor(PROPORTION * moves.length);
  const bound = moves.map(({ size }) => size).sort((a, b) => b - a)[count - 1] ?? 0;
  return moves.filter(({ size, isChanged }) => isChanged && Math.fround(size) < Math.fround(bound)).length;
}

async function identities(make: typeof ltSft, base: TensorModel): Promise<Check[]> {
  const points = task("a train", 0, 2000);
  const { tuned, model, patch } = await twoPhases(make, base, points, 60);
  const [fullModel, all] = [await unfreeze(base), await make(base, { tuned, proportion: 1 })];
  const wanted = await tune(fullModel, points, settings(30));
  const found = await tune(all, points, settings(30));
  const applied = await applyPatch(base, patch);
  const total = [...base.weights.values()].reduce(
    (sum, { shape }) => sum + Number(shape[0]) * Number(shape[1] ?? 1),
    0,
  );
  const changed = [...patch.changes.values()].reduce((sum, { places }) => sum + places.length, 0);
  const exact = (what: string, measured: number): Check => ({ what, measured, expected: 0, tolerance: 0 });
  return [
    exact("changed entries that did not move farthest", await outside(base, tuned, model)),
    {
      what: "changed entries over their number",
      measured: changed / Math.floor(PROPORTION * total),
      expected: 0.95,
      tolerance: 0.051,
    },
    exact("all entries against fine-tuning, loss", gap(found, wanted)),
    exact(
      "base and patch against the model, logits",
      gap(await logits(applied, points), await logits(model, points)),
    ),
    exact("patch read back, entries that differ", await roundTrip(base, patch)),
    ...(await scaled(make, base, tuned)),
  ];
}

async function roundTrip(base: TensorModel, patch: SparsePatch): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), "patch-"));
  try {
    await savePatch(base, patch, folder);
    const again = await loadPatch(base, folder);
    return [...patch.changes].reduce((sum, [name, { places, values }]) => {
      const other = again.changes.get(name);
      return sum + gap(places, other?.places ?? []) + gap(values, other?.values ?? []);
    }, 0);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** One weight that moved ten times as far gets more of the entries: the choice is over all weights together. */
async function scaled(make: typeof ltSft, base: TensorModel, tuned: TensorModel): Promise<Check[]> {
  const name = "fc2.weight";
  const [before, now] = [await numbersOf(base, name), await numbersOf(tuned, name)];
  const far = now.map((value, at) => Number(before[at]) + 10 * (value - Number(before[at])));
  const weights = new Map(tuned.weights).set(name, constant(tensor("float32", [CLASSES, HIDDEN], far), name));
  const share = async (given: TensorModel) => {
    const model = await make(base, { tuned: given, proportion: PROPORTION });
    return Number(model.places.get(name)?.length) / far.length;
  };
  const [few, many] = [await share(tuned), await share({ ...tuned, weights })];
  return [atLeast("entries of a weight that moved ten times as far, beyond before", many - few, 0.2)];
}

/** Mean distance from the base with a strong pull, over that without. */
async function pull(base: TensorModel): Promise<Check> {
  const distance = async (strength: number) => {
    const model = pulledToBase(await unfreeze(base), strength);
    await tune(model, task("a train", 0, 2000), settings(150));
    const { changes } = await patchOf(model);
    return [...changes.values()].reduce(
      (sum, { values }) => sum + values.reduce((s, v) => s + Math.abs(v), 0),
      0,
    );
  };
  return {
    what: "distance from the base with a strong pull over that without",
    measured: (await distance(3000)) / (await distance(0)),
    expected: 0,
    tolerance: 0.1,
  };
}

async function composition(make: typeof ltSft, base: TensorModel, steps: number): Promise<Check[]> {
  const train = [task("a train", 0, 4000), task("b train", 1, 4000)] as const;
  const test = [task("a test", 0, 2000), task("b test", 1, 2000)] as const;
  const [a, b] = [await twoPhases(make, base, train[0], steps), await twoPhases(make, base, train[1], steps)];
  const kept = async (patches: readonly SparsePatch[], alone: readonly TensorModel[]) => {
    const both = await applyPatch(base, composePatches(patches));
    const shares: number[] = [];
    for (const [at, points] of test.entries())
      shares.push((await accuracy(both, points)) / (await accuracy(alone[at] as TensorModel, points)));
    return Math.min(...shares);
  };
  const sparse = await kept([a.patch, b.patch], [a.model, b.model]);
  const dense = await kept([a.dense, b.dense], [a.tuned, b.tuned]);
  const single: number[] = [];
  for (const [at, { model, tuned }] of [a, b].entries())
    single.push((await accuracy(model, test[at] as Points)) / (await accuracy(tuned, test[at] as Points)));
  const turned = await applyPatch(base, composePatches([b.patch, a.patch]));
  const straight = await applyPatch(base, composePatches([a.patch, b.patch]));
  return [
    atLeast("share of the accuracy that both tasks keep together", sparse, 0.85, 1.1),
    atLeast(`beyond what whole differences keep (${dense.toFixed(3)})`, sparse - dense, 0.02),
    atLeast("accuracy of a patch by itself over that of full fine-tuning", Math.min(...single), 0.9, 1.2),
    {
      what: "patches in the other order, logits",
      measured: gap(await logits(turned, test[0]), await logits(straight, test[0])),
      expected: 0,
      tolerance: 0,
    },
  ];
}
