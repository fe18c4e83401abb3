import { type LoraConfig, lora, loraMethod, type Method } from "../src/methods/index.js";
import { gemm, qr, svd } from "../src/runtime/index.js";
import { identity, matrixOf, tailOf, turned, vanishes } from "./matrices.js";
import { atLeast } from "./network.js";
import { compute, gap, learn, norm, normals, type PlantedMap, plant, plus, start, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";
import { matrix, numbersAt } from "./structure.js";

export interface LoraStartsProofOptions {
  /** The implementation under test: LoRA with its starts. */
  readonly method?: Method<LoraConfig>;
}

type Init = LoraConfig["init"];

const [OUT, IN, RANK, SCALE] = [24, 32, 4, 3];
const configOf = (init: Init) => lora({ rank: RANK, alpha: SCALE * RANK, init }).config;

/** Inputs whose lengths fall along an orthonormal basis: their covariance is what data-driven starts read. */
const inputs = Float32Array.from(
  qr({ rows: IN, cols: IN, data: normals(IN * IN, "starts", "inputs") }).q.data,
  (value, at) => value * Math.exp(-Math.floor(at / IN) / 4),
);
const covariance = times(turned(IN, IN, inputs), inputs, [IN, IN, IN]);

const base = plant("map", [OUT, IN], normals(OUT * IN, "starts", "delta"), "starts");
/** The gradient of ½‖(W' − W*)·I‖² at W. */
const gradient = plus(base.weight, base.target, -1);
const map: PlantedMap = {
  ...base,
  statistics: { covariance, gradient, inputMean: new Float32Array(IN) },
};

/** What each start takes, or says, in plain arithmetic: lora.md (d) and (e). */
export function loraStartsProof({ method = loraMethod }: LoraStartsProofOptions = {}): Proof {
  return {
    name: "lora-starts",
    title: "Starts of LoRA: the base stays as it is, and each takes of it what its paper says",
    papers: ["2404.02948", "2406.01775", "2406.05223", "2407.05000", "2410.07170"],
    async run() {
      const checks: Check[] = [];
      for (const init of INITS) checks.push(...(await identities(method, init)));
      return [
        ...checks,
        ...(await pissa(method)),
        ...(await olora(method)),
        ...(await corda(method)),
        ...(await orthogonal(method)),
        ...(await eva(method)),
        ...(await loraGa(method)),
      ];
    },
  };
}

/** Those that start with a part of W, and the others. */
const TAKING = ["pissa", "pissa_niter_4", "olora", "corda", "corda_kpm", "lora_ga"] as const;
const INITS: readonly Init[] = [...TAKING, "default", "gaussian", "orthogonal", "eva"];

interface Started {
  readonly a: Float32Array;
  readonly b: Float32Array;
  /** s·B·A */
  readonly product: Float32Array;
}

async function started(method: Method<LoraConfig>, init: Init): Promise<Started> {
  const all = numbersAt(await start({ method, config: configOf(init) }, [map]));
  const { lora_A: a = new Float32Array(0), lora_B: b = new Float32Array(0) } = all;
  return { a, b, product: times(b, a, [OUT, RANK, IN]).map((value) => SCALE * value) };
}

/** The start is the base; and after training, doubled factors [A; A0] and [B, −B0] on the base are the trained model. */
async function identities(method: Method<LoraConfig>, init: Init): Promise<Check[]> {
  const adaptation = { method, config: configOf(init) };
  const live = await start(adaptation, [map]);
  const before = await compute(adaptation, map, live, identity(IN));
  await learn(adaptation, [map], { steps: 20, lr: 0.01, live });
  const after = await compute(adaptation, map, live, identity(IN));
  const { lora_A: a = [], lora_B: b = [], lora_A0: a0, lora_B0: b0 } = numbersAt(live);
  const own = plus(map.weight, times(b, a, [OUT, RANK, IN]), SCALE);
  const whole = a0 && b0 ? plus(own, times(b0, a0, [OUT, RANK, IN]), -SCALE) : own;
  const taken = (TAKING as readonly string[]).includes(init);
  return [
    vanishes(`${init}: change of W at the start`, gap(before.weight, map.weight), 1e-5),
    vanishes(
      `${init}: change of outputs at the start`,
      gap(before.forward, turned(OUT, IN, map.weight)),
      1e-5,
    ),
    vanishes(
      `${init}: W' after 20 steps against ${taken ? "the doubled factors" : "W + s B A"}`,
      gap(after.weight, whole),
      1e-5,
    ),
    atLeast(`${init}: change of W by them`, norm(plus(after.weight, map.weight, -1)), 0.1, 100),
  ];
}

const error = (product: Float32Array): number => norm(plus(map.weight, product, -1));

async function pissa(method: Method<LoraConfig>): Promise<Check[]> {
  const best = Math.sqrt(tailOf(OUT, IN, map.weight, RANK));
  const { a, b, product } = await started(method, "pissa");
  const near = await started(method, "pissa_niter_4");
  const { s } = svd(matrixOf(OUT, IN, map.weight));
  const share = (length: number, of: (k: number) => number) =>
    Math.max(...Array.from({ length }, (_, k) => Math.abs(of(k) - Math.sqrt(Number(s[k]) / SCALE))));
  return [
    {
      what: "pissa: ‖W − s B A‖ against the best of its rank",
      measured: error(product),
      expected: best,
      tolerance: 1e-5,
      relative: true,
    },
    {
      what: "pissa_niter_4: the same",
      measured: error(near.product),
      expected: best,
      tolerance: 1e-2,
      relative: true,
    },
    vanishes(
      "pissa: lengths of A's rows and B's columns against √(σ / s)",
      Math.max(
        share(RANK, (k) => norm(a.subarray(k * IN, (k + 1) * IN))),
        share(RANK, (k) => norm(b.filter((_, at) => at % RANK === k))),
      ),
      1e-5,
    ),
  ];
}

async function olora(method: Method<LoraConfig>): Promise<Check[]> {
  const { a, b } = await started(method, "olora");
  const plain = times(b, a, [OUT, RANK, IN]);
  // Q_r·R_r is the projection on the first r columns of W, which it holds exactly.
  const columns = matrix(OUT, RANK, (i, j) => Number(plain[i * IN + j]) - Number(map.weight[i * IN + j]));
  const projected = times(times(b, turned(OUT, RANK, b), [OUT, RANK, OUT]), map.weight, [OUT, OUT, IN]);
  return [
    vanishes(
      "olora: largest entry of BᵀB − I",
      gap(times(turned(OUT, RANK, b), b, [RANK, OUT, RANK]), identity(RANK)),
      1e-5,
    ),
    vanishes("olora: B A against W in its first columns", gap(columns, new Float32Array(OUT * RANK)), 1e-5),
    vanishes("olora: B A against B Bᵀ W", gap(plain, projected), 1e-5),
  ];
}

/** ‖(W − s·B·A)·C‖ over the best that rank r leaves of W·C; C as damped. */
async function corda(method: Method<LoraConfig>): Promise<Check[]> {
  const mean = Array.from({ length: IN }, (_, k) => Number(covariance[k * (IN + 1)])).reduce(
    (sum, value) => sum + value / IN,
    0,
  );
  const damped = Float64Array.from(
    covariance,
    (value, at) => value + (at % (IN + 1) === 0 ? 0.01 * mean : 0),
  );
  // The least singular values are lost in single precision.
  const through = (weight: Float32Array) =>
    gemm(matrixOf(OUT, IN, weight), { rows: IN, cols: IN, data: damped }).data;
  const [ipm, kpm] = [await started(method, "corda"), await started(method, "corda_kpm")];
  const { s } = svd(matrixOf(OUT, IN, through(map.weight)));
  const tail = (from: number, to: number) => Math.hypot(...s.slice(from, to));
  return [
    {
      what: "corda: ‖(W − s B A) C‖ against the best of its rank",
      measured: norm(through(plus(map.weight, ipm.product, -1))),
      expected: tail(RANK, OUT),
      tolerance: 1e-3,
      relative: true,
    },
    {
      what: "corda_kpm: ‖s B A C‖ against the least singular values",
      measured: norm(through(kpm.product)),
      expected: tail(OUT - RANK, OUT),
      tolerance: 1e-3,
      relative: true,
    },
  ];
}

async function orthogonal(method: Method<LoraConfig>): Promise<Check[]> {
  const { a, b, product } = await started(method, "orthogonal");
  return [
    vanishes("orthogonal: s B A", gap(product, new Float32Array(OUT * IN)), 1e-6),
    atLeast("orthogonal: ‖A‖, which is not zero", norm(a), 0.1, 10),
    atLeast("orthogonal: ‖B‖, which is not zero", norm(b), 0.1, 10),
  ];
}

/** Rows of A are the main directions of the inputs. */
async function eva(method: Method<LoraConfig>): Promise<Check[]> {
  const { a } = await started(method, "eva");
  const kept = times(times(a, covariance, [RANK, IN, IN]), turned(RANK, IN, a), [RANK, IN, RANK]);
  const { s } = svd(matrixOf(IN, IN, covariance));
  const trace = Array.from({ length: RANK }, (_, k) => Number(kept[k * (RANK + 1)])).reduce((x, y) => x + y);
  return [
    vanishes(
      "eva: largest entry of A Aᵀ − I",
      gap(times(a, turned(RANK, IN, a), [RANK, IN, RANK]), identity(RANK)),
      1e-4,
    ),
    {
      what: "eva: variance of the inputs along A against the most that rank has",
      measured: trace,
      expected: s.slice(0, RANK).reduce((x, y) => x + y),
      tolerance: 1e-3,
      relative: true,
    },
  ];
}

/** The first step moves W along the best approximation of twice the rank of its gradient. */
async function loraGa(method: Method<LoraConfig>): Promise<Check[]> {
  const { a, b } = await started(method, "lora_ga");
  // ΔW of a small step of gradient descent: −(G·Aᵀ·A + B·Bᵀ·G) but for a factor.
  const byA = times(times(gradient, turned(RANK, IN, a), [OUT, IN, RANK]), a, [OUT, RANK, IN]);
  const byB = times(times(b, turned(OUT, RANK, b), [OUT, RANK, OUT]), gradient, [OUT, OUT, IN]);
  const step = plus(byA, byB);
  const inner = step.reduce((sum, value, at) => sum + value * Number(gradient[at]), 0);
  const cosine = inner / (norm(step) * norm(gradient));
  // Both at their place of the spectrum, whatever the factor of each.
  const [rows, columns] = [unevenness(a, RANK, IN), unevenness(turned(OUT, RANK, b), RANK, OUT)];
  const best = Math.sqrt(1 - tailOf(OUT, IN, gradient, 2 * RANK) / norm(gradient) ** 2);
  return [
    {
      what: "lora_ga: cosine of the first step and the gradient against the best of twice the rank",
      measured: cosine,
      expected: best,
      tolerance: 1e-3,
      relative: true,
    },
    vanishes("lora_ga: rows of A, and columns of B, that are not orthogonal", Math.max(rows, columns), 1e-4),
    between("lora_ga: what LoRA's own start reaches of that", (await plainCosine(method)) / best, 0, 0.8),
  ];
}

/** Departure from orthogonal rows, all of the length of the first. */
function unevenness(data: Float32Array, rows: number, cols: number): number {
  const length = norm(data.subarray(0, cols));
  const unit = data.map((value) => value / length);
  return gap(times(unit, turned(rows, cols, unit), [rows, cols, rows]), identity(rows));
}

async function plainCosine(method: Method<LoraConfig>): Promise<number> {
  const { a } = await started(method, "default");
  const step = times(times(gradient, turned(RANK, IN, a), [OUT, IN, RANK]), a, [OUT, RANK, IN]);
  const inner = step.reduce((sum, value, at) => sum + value * Number(gradient[at]), 0);
  return inner / (norm(step) * norm(gradient));
}
