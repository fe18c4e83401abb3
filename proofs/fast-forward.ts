import { rng } from "../src/runtime/index.js";
import {
  adamw,
  type FastForward,
  type FastForwardOptions,
  type FastForwardStage,
  fastForward,
  type Params,
} from "../src/training/index.js";
import type { Check, Proof } from "./proof.js";

const [SIZE, RANK, BATCH, VALIDATION, TEST, STEPS] = [48, 4, 64, 32, 1000, 600];

export interface FastForwardProofOptions {
  /** The implementation under test. */
  readonly make?: (options: FastForwardOptions) => FastForward;
  /** Default [1, 2, 3]. */
  readonly seeds?: readonly number[];
}

/**
 * What Fast Forward must do: a frozen 48 x 48 map learns a change of rank 2 by LoRA of rank 4 with Adam at 1e-3, from noisy
 * examples. With stages it reaches the test loss of 600 plain updates with at least 40 % fewer forward passes (an update
 * counts three of its batch of 64, a trial one of 32 examples).
 */
export function fastForwardProof({
  make = fastForward,
  seeds = [1, 2, 3],
}: FastForwardProofOptions = {}): Proof {
  return {
    name: "fast-forward",
    title: "Fast Forward reaches plain training's loss with far fewer forward passes",
    papers: ["2409.04206"],
    async run() {
      const checks: Check[] = [];
      for (const seed of seeds) checks.push(...(await ofSeed(make, seed)));
      return checks;
    },
  };
}

interface Examples {
  /** `[count, 48]` each. */
  readonly x: Float32Array;
  /** What the adapter has to add: D x + 0.1 noise. */
  readonly y: Float32Array;
  readonly count: number;
}

function teacher(seed: number): (label: string, count: number) => Examples {
  const normals = (label: string, count: number) =>
    rng(seed, "fast-forward", label).fillNormal(new Float32Array(count));
  const [left, right] = [normals("left", SIZE * 2), normals("right", 2 * SIZE)];
  const known = new Map<string, Examples>();
  return (label, count) => {
    const found = known.get(label);
    if (found) return found;
    const x = normals(`${label} x`, count * SIZE);
    const y = normals(`${label} noise`, count * SIZE).map((value) => 0.1 * value);
    for (let row = 0; row < count; row++) {
      for (let k = 0; k < 2; k++) {
        let inner = 0;
        for (let j = 0; j < SIZE; j++) inner += Number(right[k * SIZE + j]) * Number(x[row * SIZE + j]);
        inner /= SIZE;
        for (let i = 0; i < SIZE; i++)
          y[row * SIZE + i] = Number(y[row * SIZE + i]) + Number(left[i * 2 + k]) * inner;
      }
    }
    known.set(label, { x, y, count });
    return { x, y, count };
  };
}

/** Mean squared error of B A x, and its gradients. */
function lossOf(
  params: Params,
  { x, y, count }: Examples,
): { loss: number; grads: Map<string, Float32Array> } {
  const a = params.get("lora_A") as Float32Array;
  const b = params.get("lora_B") as Float32Array;
  const grads = { a: new Float64Array(a.length), b: new Float64Array(b.length) };
  const scale = 1 / (count * SIZE);
  let loss = 0;
  for (let row = 0; row < count; row++) {
    const point = x.subarray(row * SIZE, (row + 1) * SIZE);
    const hidden = new Float64Array(RANK);
    for (let k = 0; k < RANK; k++)
      for (let j = 0; j < SIZE; j++)
        hidden[k] = Number(hidden[k]) + Number(point[j]) * Number(a[k * SIZE + j]);
    const back = new Float64Array(RANK);
    for (let i = 0; i < SIZE; i++) {
      let error = -Number(y[row * SIZE + i]);
      for (let k = 0; k < RANK; k++) error += Number(b[i * RANK + k]) * Number(hidden[k]);
      loss += error * error * scale;
      for (let k = 0; k < RANK; k++) {
        grads.b[i * RANK + k] = Number(grads.b[i * RANK + k]) + 2 * scale * error * Number(hidden[k]);
        back[k] = Number(back[k]) + 2 * scale * error * Number(b[i * RANK + k]);
      }
    }
    for (let k = 0; k < RANK; k++)
      for (let j = 0; j < SIZE; j++)
        grads.a[k * SIZE + j] = Number(grads.a[k * SIZE + j]) + Number(back[k]) * Number(point[j]);
  }
  const named = new Map([
    ["lora_A", Float32Array.from(grads.a)],
    ["lora_B", Float32Array.from(grads.b)],
  ]);
  return { loss, grads: named };
}

interface Run {
  readonly loss: number;
  /** Examples that went forward, updates counting three times. */
  readonly forwards: number;
  readonly stages: readonly FastForwardStage[];
}

/** Trains until the test loss is reached, or for all steps. */
async function trained(
  examples: (label: string, count: number) => Examples,
  seed: number,
  phase: FastForward | undefined,
  target: number,
): Promise<Run> {
  const bound = 1 / Math.sqrt(SIZE);
  const params = new Map([
    ["lora_A", rng(seed, "lora_A").fillUniform(new Float32Array(RANK * SIZE), -bound, bound)],
    ["lora_B", new Float32Array(SIZE * RANK)],
  ]);
  const optimizer = adamw({ lr: 1e-3, weightDecay: 0 });
  const state = optimizer.init(params);
  const [validation, test] = [examples("validation", VALIDATION), examples("test", TEST)];
  const stages: FastForwardStage[] = [];
  const forwards = () => phase?.report().trialFlops ?? 0;
  for (let step = 1; step <= STEPS; step++) {
    phase?.beforeUpdate(step, params);
    optimizer.step(params, lossOf(params, examples(`batch ${step}`, BATCH)).grads, state, { step });
    const stage = await phase?.afterUpdate(step, params, async () => lossOf(params, validation).loss);
    if (stage) stages.push(stage);
    if (!stage && step % 10 !== 0) continue;
    const { loss } = lossOf(params, test);
    if (loss <= target) return { loss, forwards: 3 * BATCH * step + forwards(), stages };
  }
  return { loss: lossOf(params, test).loss, forwards: 3 * BATCH * STEPS + forwards(), stages };
}

async function ofSeed(make: (options: FastForwardOptions) => FastForward, seed: number): Promise<Check[]> {
  const examples = teacher(seed);
  const whole = await trained(examples, seed, undefined, Number.NEGATIVE_INFINITY);
  const flops = { batchForward: BATCH, validationForward: VALIDATION };
  const target = whole.loss + 1e-4;
  // Plain training is counted to where it first gets there, too.
  const plain = await trained(examples, seed, undefined, target);
  const fast = await trained(examples, seed, make({ flops }), target);
  const of = `seed ${seed}`;
  const rises = fast.stages.flatMap(({ losses }) =>
    losses.slice(0, -1).filter((loss, at) => at > 0 && loss >= Number(losses[at - 1])),
  );
  const first = Number(fast.stages[0]?.tau);
  const last = Number(fast.stages.at(-1)?.tau);
  return [
    {
      what: `forward passes saved, ${of}`,
      measured: 1 - fast.forwards / plain.forwards,
      expected: 0.65,
      tolerance: 0.25,
    },
    {
      what: `test loss above the target, ${of}`,
      measured: Math.max(0, fast.loss - target),
      expected: 0,
      tolerance: 0,
    },
    {
      what: `trials before a stage's last that do not fall, ${of}`,
      measured: rises.length,
      expected: 0,
      tolerance: 0,
    },
    {
      what: `steps of the last stage over those of the first (${first}), ${of}`,
      measured: last / first,
      expected: 0.2,
      tolerance: 0.3,
    },
  ];
}
