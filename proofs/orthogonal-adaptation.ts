import { gradients } from "../src/autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../src/graph/index.js";
import {
  callMethod,
  conceptBasis,
  lora,
  type Method,
  type OrthogonalAdaptationConfig,
  orthogonalAdaptation,
  orthogonalAdaptationMethod,
  type SiteConfig,
} from "../src/methods/index.js";
import { inputsOf } from "../src/models/index.js";
import { createSession } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { adam, linear } from "../src/training/index.js";
import { identity, shake, squareOf, trainedCount, turned, vanishes } from "./matrices.js";
import {
  compute,
  gap,
  norm,
  normals,
  type PlantedMap,
  type PlantedSites,
  plus,
  start,
  times,
} from "./planted.js";
import type { Check, Proof } from "./proof.js";

export interface OrthogonalAdaptationProofOptions {
  /** The implementation under test. */
  readonly method?: Method<OrthogonalAdaptationConfig>;
  readonly basis?: typeof conceptBasis;
  /** Leave the learning checks out. Default false. */
  readonly algebraOnly?: boolean;
}

type Options = Parameters<typeof orthogonalAdaptation>[0];
const configOf = (options: Options) => orthogonalAdaptation(options).config;

/**
 * What orthogonal adaptation must do: directions are orthonormal and overlap as theory says; updates of a registry do not touch each other;
 * and concepts trained apart, whose inputs move with the training, interfere far less when added up than LoRAs do.
 */
export function orthogonalAdaptationProof(options: OrthogonalAdaptationProofOptions = {}): Proof {
  const { method = orthogonalAdaptationMethod, basis = conceptBasis, algebraOnly = false } = options;
  return {
    name: "orthogonal-adaptation",
    title: "Concepts trained apart on orthogonal directions add up without crosstalk",
    papers: ["2312.02432"],
    async run() {
      const checks = [...(await identities(method)), ...overlaps(basis)];
      return algebraOnly ? checks : [...checks, ...(await crosstalk(method))];
    },
  };
}

const [OUT, IN, RANK] = [16, 24, 4];
const map: PlantedMap = {
  path: "map",
  out: OUT,
  in: IN,
  weight: normals(OUT * IN, "w0"),
  target: new Float32Array(OUT * IN),
};

async function identities(method: Method<OrthogonalAdaptationConfig>): Promise<Check[]> {
  const deltas: Float32Array[] = [];
  let [still, numbers] = [0, 0];
  for (const slot of [0, 1, 2, 3]) {
    const adaptation = { method, config: configOf({ rank: RANK, basis: "registry", slot }) };
    const live = await start(adaptation, [map]);
    const before = await compute(adaptation, map, live, new Float32Array(IN));
    still = Math.max(still, gap(before.weight, map.weight));
    numbers = trainedCount(live);
    shake(live, 1, slot + 1);
    const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
    deltas.push(plus(weight, map.weight, -1));
  }
  const crossed = Math.max(
    ...deltas.flatMap((a, i) =>
      deltas
        .slice(i + 1)
        .map((b) => norm(times(a, turned(OUT, IN, b), [OUT, IN, OUT])) / (norm(a) * norm(b))),
    ),
  );
  const sum = deltas.reduce((a, b) => plus(a, b));
  const squares = deltas.reduce((total, delta) => total + squareOf(delta), 0);
  return [
    vanishes("change at the start", still, 0),
    { what: "trained numbers of a layer", measured: numbers, expected: OUT * RANK, tolerance: 0 },
    vanishes("ΔWᵢ·ΔWⱼᵀ of a registry, relative", crossed, 1e-6),
    {
      ...{ what: "‖ΣΔW‖² over Σ‖ΔW‖² of a registry", measured: squareOf(sum) / squares, expected: 1 },
      tolerance: 1e-5,
    },
  ];
}

/** How much two concepts share: r²/n columns of a shared matrix; normal numbers of variance 1/n otherwise. */
function overlaps(basis: typeof conceptBasis): Check[] {
  const [n, r, pairs] = [40, 8, 300];
  const of = (kind: "shared-orthogonal" | "gaussian", id: string) =>
    basis(n, configOf({ rank: r, basis: kind, conceptId: id }));
  const gram = (a: Float32Array, b: Float32Array) => times(a, turned(r, n, b), [r, n, r]);
  let [shared, square, mean, off] = [0, 0, 0, 0];
  for (let pair = 0; pair < pairs; pair++) {
    const [a, b] = [of("shared-orthogonal", `a${pair}`), of("shared-orthogonal", `b${pair}`)];
    off = Math.max(off, gap(gram(a, a), identity(r)));
    shared += squareOf(gram(a, b)) / pairs;
    const product = gram(of("gaussian", `a${pair}`), of("gaussian", `b${pair}`));
    square += squareOf(product) / (pairs * r * r);
    mean += product.reduce((sum, value) => sum + value, 0) / (pairs * r * r);
  }
  const standardError = 1 / Math.sqrt(n * pairs * r * r);
  return [
    vanishes("BᵀB − I", off, 1e-6),
    {
      what: "columns that two concepts share",
      measured: shared,
      expected: (r * r) / n,
      tolerance: 0.05,
      relative: true,
    },
    vanishes("normal directions: mean of BᵢᵀBⱼ", mean, 3 * standardError),
    {
      what: "normal directions: its variance",
      measured: square,
      expected: 1 / n,
      tolerance: 0.05,
      relative: true,
    },
  ];
}

const [N, M, R, CONCEPTS, STEPS, BATCH] = [128, 64, 4, 5, 1500, 8];

/** One trained concept: its update, its input and the target it learnt. */
interface Concept {
  readonly delta: Float32Array;
  readonly input: Float32Array;
  readonly target: Float32Array;
  readonly wish: Float32Array;
}

type Kind = "lora" | "same" | "gaussian" | "shared-orthogonal" | "registry";

function adaptationOf(method: Method<OrthogonalAdaptationConfig>, kind: Kind, index: number) {
  if (kind === "lora") return lora({ rank: R, alpha: R });
  const conceptId = kind === "same" ? "one" : `concept ${index}`;
  const basis = kind === "same" ? "shared-orthogonal" : kind;
  return { method, config: configOf({ rank: R, basis, conceptId, slot: index }) };
}

/** Trains one concept: W·e + ΔW·e must become W·p + v for inputs e, starting at the class word p, with noise. */
async function concept(
  method: Method<OrthogonalAdaptationConfig>,
  kind: Kind,
  index: number,
  w0: Float32Array,
  inputTrained: boolean,
): Promise<Concept> {
  const own: PlantedMap = { path: "map", out: M, in: N, weight: w0, target: w0 };
  const adaptation = adaptationOf(method, kind, index) as unknown as Parameters<typeof start<SiteConfig>>[0];
  const live = await start(adaptation, [own], index + 1);
  const e = normals(N, "class word").slice();
  const wish = normals(M, "wish", index).map((value) => 1.5 * value);
  const target = plus(times(w0, normals(N, "class word"), [M, N, 1]), wish);
  await trainConcept({ adaptation, live, own, e, target, index, inputTrained });
  const { weight } = await compute(adaptation, own, live, new Float32Array(N));
  return { delta: plus(weight, w0, -1), input: e, target, wish };
}

async function trainConcept(task: {
  readonly adaptation: Parameters<typeof start<SiteConfig>>[0];
  readonly live: PlantedSites;
  readonly own: PlantedMap;
  readonly e: Float32Array;
  readonly target: Float32Array;
  readonly index: number;
  readonly inputTrained: boolean;
}): Promise<void> {
  const { adaptation, live, own, e, target, index, inputTrained } = task;
  const entries = { ...live.shared, ...live.sites[0]?.tensors };
  const values = Object.fromEntries(Object.entries(entries).map(([key, { value }]) => [key, value]));
  const given = {
    e: input("e", "float32", [1, N]),
    noise: input("noise", "float32", [BATCH, N]),
    w: input("w", "float32", [M, N]),
    target: input("target", "float32", [1, M]),
  };
  const x = ops.add(given.noise, given.e);
  const site = live.sites[0]?.shape ?? {
    path: "map",
    kind: "linear",
    inFeatures: N,
    outFeatures: M,
    hasBias: false,
  };
  const y = callMethod(adaptation.method, adaptation.config, { site, tensors: values, x, weight: given.w });
  const loss = ops.mul(ops.reduceSum(ops.square(ops.sub(y, given.target)), undefined, false), 1 / BATCH);
  const params = new Map<string, Float32Array>();
  const wanted: Value[] = [];
  for (const { name, value, tensor: own, trainable } of Object.values(entries)) {
    if (!trainable) continue;
    params.set(name, own.data as Float32Array);
    wanted.push(value);
  }
  if (inputTrained) {
    params.set("e", e);
    wanted.push(given.e);
  }
  const names = [...params.keys()];
  const grads = gradients(loss, wanted);
  const outputs = names.map((name, at): [string, Value] => [`grad/${name}`, grads[at] as Value]);
  const graph = makeGraph("concept", inputsOf(grads as Value[]), outputs);
  const session = await createSession(graph, { threads: 1 });
  const optimizer = adam({ lr: 0.02, schedule: linear({ totalSteps: STEPS }) });
  const state = optimizer.init(params);
  const fixed: Record<string, Tensor> = {
    e: tensor("float32", [1, N], e),
    w: tensor("float32", [M, N], own.weight),
    target: tensor("float32", [1, M], target),
  };
  for (const { name, tensor: data } of Object.values(entries)) fixed[name] = data;
  try {
    for (let step = 1; step <= STEPS; step++) {
      const noise = normals(BATCH * N, "noise", index, step).map((value) => 0.05 * value);
      const all: Record<string, Tensor> = { ...fixed, noise: tensor("float32", [BATCH, N], noise) };
      const feeds = graph.inputs.map(({ name }) => [String(name), all[String(name)] as Tensor] as const);
      const found = await session.run(Object.fromEntries(feeds));
      const gradient = new Map(names.map((name) => [name, found[`grad/${name}`]?.data as Float32Array]));
      optimizer.step(params, gradient, state, { step });
    }
  } finally {
    await session.release();
  }
}

/** Mean over concepts of ‖(W₀ + λΣΔW)·eᵢ − tᵢ‖² / ‖vᵢ‖²; of each alone; and of ‖ΔWⱼeᵢ‖² / ‖ΔWᵢeᵢ‖². */
async function measured(method: Method<OrthogonalAdaptationConfig>, kind: Kind, inputTrained = true) {
  const w0 = normals(M * N, "crosstalk w0").map((value) => value / Math.sqrt(N));
  const all: Concept[] = [];
  for (let index = 0; index < CONCEPTS; index++)
    all.push(await concept(method, kind, index, w0, inputTrained));
  const error = (weight: Float32Array, { input: e, target, wish }: Concept) =>
    squareOf(plus(times(weight, e, [M, N, 1]), target, -1)) / squareOf(wish);
  const mean = (of: (own: Concept) => number) => all.reduce((sum, own) => sum + of(own), 0) / CONCEPTS;
  const merged = (scale: number) =>
    all.reduce<Float32Array>((weight, { delta }) => plus(weight, delta, scale), w0);
  const effect = (delta: Float32Array, e: Float32Array) => squareOf(times(delta, e, [M, N, 1]));
  const others = (own: Concept) => all.filter((other) => other !== own);
  const [sum, average] = [merged(1), merged(1 / CONCEPTS)];
  return {
    sum: mean((own) => error(sum, own)),
    average: mean((own) => error(average, own)),
    alone: mean((own) => error(plus(w0, own.delta), own)),
    ratio: mean(
      (own) =>
        others(own).reduce((total, { delta }) => total + effect(delta, own.input), 0) /
        ((CONCEPTS - 1) * effect(own.delta, own.input)),
    ),
  };
}

async function crosstalk(method: Method<OrthogonalAdaptationConfig>): Promise<Check[]> {
  const [trained, same] = [await measured(method, "lora"), await measured(method, "same")];
  const checks: Check[] = [
    { what: "summed error, LoRA", measured: trained.sum, expected: 3.7, tolerance: 1.5 },
    { what: "summed error, one basis for all", measured: same.sum, expected: 2.8, tolerance: 1.2 },
    { what: "crosstalk, LoRA", measured: trained.ratio, expected: 1.28, tolerance: 0.3 },
    { what: "crosstalk, one basis for all", measured: same.ratio, expected: 1, tolerance: 0.2 },
  ];
  for (const kind of ["gaussian", "shared-orthogonal", "registry"] as const) {
    const own = await measured(method, kind);
    checks.push(
      vanishes(`error of single concepts, ${kind}`, own.alone, 0.02),
      {
        what: `summed error over LoRA's, ${kind} (below 0.5)`,
        measured: own.sum / trained.sum,
        expected: 0.25,
        tolerance: 0.25,
      },
      {
        what: `summed error over one basis's, ${kind} (below 0.65)`,
        measured: own.sum / same.sum,
        expected: 0.325,
        tolerance: 0.325,
      },
      { what: `crosstalk, ${kind}`, measured: own.ratio, expected: 0.44, tolerance: 0.2 },
      { what: `error at strength 1/5, ${kind}`, measured: own.average, expected: 0.5, tolerance: 0.2 },
    );
  }
  const frozen = await measured(method, "lora", false);
  for (const kind of ["same", "gaussian", "shared-orthogonal", "registry"] as const) {
    const own = await measured(method, kind, false);
    checks.push({
      ...{ what: `inputs frozen: summed error, ${kind} against LoRA`, measured: own.sum },
      ...{ expected: frozen.sum, tolerance: 0.02, relative: true },
    });
  }
  return checks;
}
