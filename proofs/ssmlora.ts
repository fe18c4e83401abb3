import {
  type Adaptation,
  adapt,
  lora,
  type Method,
  type SsmloraConfig,
  ssmlora,
  ssmloraMethod,
} from "../src/methods/index.js";
import { rng } from "../src/runtime/index.js";
import { liveTensor, logits, network, numbersOf } from "./network.js";
import { gap, normals, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface SsmloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<SsmloraConfig>;
}

const [SIZE, RANK, ROWS, LAYERS] = [12, 4, 5, 3];

/** That the state runs along the depth as the recurrence says, per row, and that without it LoRA is left. */
export function ssmloraProof({ method = ssmloraMethod }: SsmloraProofOptions = {}): Proof {
  return {
    name: "ssmlora",
    title: "SSMLoRA's state follows its recurrence along the depth, and knows nothing of other rows",
    papers: ["2502.04958"],
    run: () => checks(method),
  };
}

const base = network(new Array<number>(LAYERS + 1).fill(SIZE), { seed: "ssmlora" });
const points = (x: Float32Array) => ({ width: SIZE, x, labels: new Array<number>(x.length / SIZE).fill(0) });

async function adapted(
  method: Method<SsmloraConfig>,
  change: (key: string, data: Float32Array) => Float32Array = (_, data) => data,
) {
  const { config } = ssmlora({ rank: RANK, alpha: 2, chain: "all-modules" });
  const model = await adapt(base, { method, config } as unknown as Adaptation);
  for (const { name, trainable, tensor } of model.parameters.values()) {
    if (!trainable) continue;
    const data = tensor.data as Float32Array;
    const noise = rng(3, name).fillNormal(new Float32Array(data.length), 0, 0.4);
    data.set(
      change(
        name.slice(name.lastIndexOf(".") + 1),
        data.map((value, at) => value + Number(noise[at])),
      ),
    );
  }
  return model;
}
type Model = Awaited<ReturnType<typeof adapted>>;

/** The recurrence in plain arithmetic: outputs, and the states on the way. */
async function recurrence(model: Model, x: Float32Array) {
  let input = x;
  let h: Float32Array = new Float32Array((x.length / SIZE) * RANK);
  const rows = x.length / SIZE;
  const states: Float32Array[] = [];
  for (let layer = 1; layer <= LAYERS; layer++) {
    const path = `fc${layer}`;
    const get = (key: string) => liveTensor(model, path, key).data as Float32Array;
    const turned = (m: Float32Array, n: number, k: number) =>
      m.map((_, at) => Number(m[(at % n) * k + Math.floor(at / n)]));
    const u = times(input, turned(get("ssm_A"), RANK, SIZE), [rows, SIZE, RANK]);
    const [hc, ud] = [times(h, get("ssm_C"), [rows, RANK, RANK]), times(u, get("ssm_D"), [rows, RANK, RANK])];
    const s = h.map((value, at) => Number(hc[at]) + Number(ud[at]) + value);
    h = new Float32Array(s.length);
    for (let row = 0; row < rows; row++) {
      const own = s.subarray(row * RANK, (row + 1) * RANK);
      const [low, high] = [Math.min(...own), Math.max(...own)];
      own.forEach((value, k) => {
        h[row * RANK + k] = high > low ? (value - low) / (high - low + 1e-8) : 0;
      });
    }
    states.push(h);
    const both = u.map((value, at) => value + Number(h[at]));
    const update = times(both, turned(get("ssm_B"), SIZE, RANK), [rows, RANK, SIZE]);
    const [weight, bias] = [await numbersOf(base, `${path}.weight`), await numbersOf(base, `${path}.bias`)];
    const product = times(input, turned(weight, SIZE, SIZE), [rows, SIZE, SIZE]);
    const y = product.map((value, at) => value + Number(bias[at % SIZE]) + 2 * Number(update[at]));
    input = layer < LAYERS ? y.map((value) => Math.max(0, value)) : y;
  }
  return { y: input, states };
}

async function checks(method: Method<SsmloraConfig>): Promise<Check[]> {
  const zero = (what: string, measured: number, tolerance = 1e-4): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  const x = normals(ROWS * SIZE, "ssmlora");
  const fresh = await adapt(base, {
    method,
    config: ssmlora({ rank: RANK }).config,
  } as unknown as Adaptation);
  const model = await adapted(method);
  const whole = await logits(model, points(x));
  const wanted = await recurrence(model, x);
  const alone = await logits(model, points(x.slice(2 * SIZE, 3 * SIZE)));
  // Without C and D the states stay zero: LoRA of factor alpha.
  const still = await adapted(method, (key, data) =>
    key === "ssm_C" || key === "ssm_D" ? data.fill(0) : data,
  );
  const plain = await adapt(base, lora({ rank: RANK, alpha: 2 * RANK }));
  for (let layer = 1; layer <= LAYERS; layer++)
    for (const part of ["A", "B"]) {
      const own = liveTensor(still, `fc${layer}`, `ssm_${part}`).data as Float32Array;
      (liveTensor(plain, `fc${layer}`, `lora_${part}`).data as Float32Array).set(own);
    }
  // A state that is handed on: what D of the first module writes, the last module reads.
  const before = await logits(model, points(x));
  const first = liveTensor(model, "fc1", "ssm_D").data as Float32Array;
  const b1 = liveTensor(model, "fc1", "ssm_B").data as Float32Array;
  b1.fill(0);
  const cut = await logits(model, points(x));
  first.set(first.map((value) => -value));
  const link = gap(await logits(model, points(x)), cut);
  const ranges = wanted.states.map((h) => Math.max(...h) - Math.min(...h));
  return [
    zero("change at the start", gap(await logits(fresh, points(x)), await logits(base, points(x))), 0),
    zero("outputs against the recurrence", gap(whole, wanted.y)),
    zero("a row alone against the same row of a batch", gap(alone, whole.slice(2 * SIZE, 3 * SIZE))),
    zero(
      "without C and D: against LoRA",
      gap(await logits(still, points(x)), await logits(plain, points(x))),
    ),
    between("what the first module's state changes at the end, its own update switched off", link, 1e-3, 1e3),
    between("what its update changes", gap(cut, before), 1e-3, 1e3),
    between("least range of a state", Math.min(...ranges), 0.99, 1),
  ];
}
