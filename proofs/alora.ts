import { packExamples } from "../src/data/index.js";
import { input, makeGraph, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  type AdaptedLm,
  type AloraConfig,
  adapt,
  alora,
  aloraMethod,
  callMethod,
  freeze,
  lora,
  type Method,
  unfreeze,
} from "../src/methods/index.js";
import { type CausalLm, inputsOf, type KeyValue, parameterFeeds } from "../src/models/index.js";
import { evaluate, rng } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { atLeast } from "./network.js";
import { gap, normals, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";
import { freshLm, type Language, learn, VOCABULARY } from "./tiny-lm.js";

export interface AloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<AloraConfig>;
  /** Train it as well. Default true. */
  readonly learning?: boolean;
}

/** The invocation; the other symbols are the text's. */
const CALL = [22, 23];
const [SYMBOLS, BEFORE, LENGTH] = [22, 14, 32];
const SETTINGS = { rank: 4, alpha: 8, targets: ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"] };

/**
 * Before the invocation aLoRA's model is the base bit for bit, so that the base's cache serves it; from there on it is LoRA, and
 * learns as well.
 */
export function aloraProof({ method = aloraMethod, learning = true }: AloraProofOptions = {}): Proof {
  return {
    name: "alora",
    title:
      "aLoRA takes over the base's cache before its invocation, where LoRA cannot, and learns as LoRA does after it",
    papers: ["2504.12397"],
    run: async () => [
      ...(await passChecks(method)),
      await mapCheck(method),
      ...(learning ? await learningChecks(method) : []),
    ],
  };
}

const activated = (method: Method<AloraConfig>): Adaptation => {
  const { config } = alora({ ...SETTINGS, invocation: CALL });
  return { method, config } as unknown as Adaptation;
};

interface Cached {
  readonly ids: readonly number[];
  readonly layers: readonly { readonly key: Tensor; readonly value: Tensor }[];
}

/** A pass over one row, perhaps after cached tokens: logits token by token, and keys and values of all. */
async function pass(model: CausalLm, ids: readonly number[], past?: Cached, segments = ids.map(() => 1)) {
  const begin = past?.ids.length ?? 0;
  const feeds: Record<string, Tensor> = {};
  const fed = (name: string, dtype: "int64" | "int32", data: readonly number[]) => {
    feeds[name] = tensor(dtype, [1, data.length], data);
    return input(name, dtype, [1, data.length]);
  };
  const kept = (name: string, value: Tensor): Value => {
    feeds[name] = value;
    return input(name, "float32", value.shape as number[]);
  };
  const inputs = {
    ids: fed("ids", "int64", ids),
    positions: fed(
      "positions",
      "int64",
      ids.map((_, at) => begin + at - segments.indexOf(segments[at] as number)),
    ),
    segments: fed("segments", "int32", segments),
    ...(past && {
      past: {
        layers: past.layers.map(
          ({ key, value }, at): KeyValue => ({
            key: kept(`key.${at}`, key),
            value: kept(`value.${at}`, value),
          }),
        ),
        positions: fed("past.positions", "int64", [...past.ids.keys()]),
        segments: fed(
          "past.segments",
          "int32",
          past.ids.map(() => 1),
        ),
        prompt: fed("past.prompt", "int64", past.ids),
      },
    }),
  };
  const { logits, present } = model.build(inputs);
  const outputs: [string, Value][] = [
    ["logits", logits],
    ...present.flatMap(({ key, value }, at): [string, Value][] => [
      [`new.key.${at}`, key],
      [`new.value.${at}`, value],
    ]),
  ];
  const graph = makeGraph("pass", inputsOf(outputs.map(([, value]) => value)), outputs);
  const read = Object.entries(feeds).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const results = await evaluate(graph, {
    ...Object.fromEntries(read),
    ...parameterFeeds(graph, model.parameters),
  });
  const data = results.logits?.data as Float32Array;
  return {
    logits: ids.map((_, at) => data.subarray(at * VOCABULARY, (at + 1) * VOCABULARY)),
    layers: present.map((_, at) => ({
      key: results[`new.key.${at}`] as Tensor,
      value: results[`new.value.${at}`] as Tensor,
    })),
  };
}

/** Columns `[0, count)` of keys or values `[1, heads, length, dim]`. */
function firstColumns({ shape, data }: Tensor, count: number): Tensor {
  const [, heads, length, dim] = shape as [number, number, number, number];
  const cut = Array.from({ length: heads }, (_, head) =>
    Array.from((data as Float32Array).subarray(head * length * dim, (head * length + count) * dim)),
  );
  return tensor("float32", [1, heads, count, dim], Float32Array.from(cut.flat()));
}

type Layers = Awaited<ReturnType<typeof pass>>["layers"];
const cached = (layers: Layers, count: number) =>
  layers.map(({ key, value }) => ({ key: firstColumns(key, count), value: firstColumns(value, count) }));
const flat = (layers: Layers): Float32Array =>
  Float32Array.from(
    layers.flatMap(({ key, value }) => [...(key.data as Float32Array), ...(value.data as Float32Array)]),
  );

const rowGaps = (a: readonly Float32Array[], b: readonly Float32Array[]) =>
  a.map((row, at) => gap(row, b[at] as Float32Array));
const most = (values: readonly number[]) => Math.max(...values);
const exactly = (what: string, measured: number, tolerance = 0): Check => ({
  what,
  measured,
  expected: 0,
  tolerance,
});

/** An adapter whose every factor is random. */
async function randomly(base: CausalLm, adaptation: Adaptation): Promise<AdaptedLm> {
  const model = await adapt(base, adaptation);
  for (const { name, trainable, tensor: own } of model.parameters.values())
    if (trainable)
      (own.data as Float32Array).set(normals(own.data.length, "alora", name).map((x) => 0.3 * x));
  return model;
}

const text = (length: number, seed: number): number[] => {
  const random = rng(7, "alora", "text", seed);
  return Array.from({ length }, () => Math.floor(random.uniform() * SYMBOLS));
};

async function passChecks(method: Method<AloraConfig>): Promise<Check[]> {
  const base = freshLm(2, 32, 3);
  const model = await randomly(base, activated(method));
  const plain = await randomly(base, lora(SETTINGS) as unknown as Adaptation);
  const row = [...text(10, 1), ...CALL, ...text(8, 2)];
  const of = { base: await pass(base, row), alora: await pass(model, row), lora: await pass(plain, row) };
  const moved = rowGaps(of.alora.logits, of.base.logits);
  const before = (layers: Layers) => flat(cached(layers, 10));
  const twice = [...text(5, 3), ...CALL, ...text(5, 4), ...CALL, ...text(4, 5)];
  const movedTwice = rowGaps((await pass(model, twice)).logits, (await pass(base, twice)).logits);
  const half = [...text(4, 6), CALL[0] as number, ...text(4, 7), CALL[1] as number, CALL[0] as number];
  const texts = [row.slice(6, 16), text(6, 8), [CALL[1] as number, ...text(3, 9), ...CALL]];
  const numbers = texts.flatMap((each, at) => each.map(() => at + 1));
  const packed = await pass(model, texts.flat(), undefined, numbers);
  const alone = (await Promise.all(texts.map(async (each) => (await pass(model, each)).logits))).flat();
  const continued = async (on: CausalLm) =>
    (await pass(on, row.slice(10), { ids: row.slice(0, 10), layers: cached(of.base.layers, 10) })).logits;
  return [
    exactly("logits before the invocation against the base's", most(moved.slice(0, 10))),
    exactly("keys and values before it", gap(before(of.alora.layers), before(of.base.layers))),
    atLeast(
      "smallest change of a token's logits from the invocation on",
      Math.min(...moved.slice(10)),
      1e-3,
      20,
    ),
    exactly("invoked twice: change before the last one", most(movedTwice.slice(0, 12))),
    atLeast(
      "invoked twice: smallest change from the last one on",
      Math.min(...movedTwice.slice(12)),
      1e-3,
      20,
    ),
    exactly(
      "change of a text with parts of the invocation",
      most(rowGaps((await pass(model, half)).logits, (await pass(base, half)).logits)),
    ),
    exactly("texts packed into a row against each alone", most(rowGaps(packed.logits, alone)), 1e-4),
    exactly(
      "continued from the base's cache against the whole text",
      most(rowGaps(await continued(model), of.alora.logits.slice(10))),
      1e-4,
    ),
    atLeast(
      "continued from the base's cache against the whole text with LoRA",
      most(rowGaps(await continued(plain), of.lora.logits.slice(10))),
      0.05,
      20,
    ),
    atLeast(
      "keys and values before the invocation with LoRA",
      gap(before(of.lora.layers), before(of.base.layers)),
      0.05,
      20,
    ),
  ];
}

/** One map over a row whose third token begins the invocation, in plain arithmetic. */
async function mapCheck(method: Method<AloraConfig>): Promise<Check> {
  const [tokens, size, rank, start] = [6, 5, 2, 2];
  const sizes = { x: [tokens, size], w: [size, size], a: [rank, size], b: [size, rank] };
  const given = Object.fromEntries(
    Object.entries(sizes).map(([key, [rows, columns]]) => [
      key,
      normals(Number(rows) * Number(columns), "map", key),
    ]),
  ) as Record<keyof typeof sizes, Float32Array>;
  const [x, w, a, b] = (["x", "w", "a", "b"] as const).map((key) => input(key, "float32", sizes[key])) as [
    Value,
    Value,
    Value,
    Value,
  ];
  const long = (name: string, dtype: "int64" | "int32" | "float32") => input(name, dtype, [1, tokens]);
  const segments = long("segments", "int32");
  const row = [3, 1, ...CALL, 5, 6];
  const { config } = alora({ rank, alpha: 3, invocation: CALL });
  const y = callMethod(method, config, {
    site: { path: "map", kind: "linear", inFeatures: size, outFeatures: size, hasBias: false },
    tensors: { lora_A: a, lora_B: b },
    x,
    weight: w,
    text: {
      segments,
      promptSegments: segments,
      prompt: long("prompt", "int64"),
      columns: long("columns", "float32"),
    },
  });
  const graph = makeGraph("map", inputsOf([y]), [["y", y]]);
  const feeds: Record<string, Tensor> = {
    ...Object.fromEntries(
      Object.entries(sizes).map(([key, shape]) => [
        key,
        tensor("float32", shape, given[key as keyof typeof sizes]),
      ]),
    ),
    segments: tensor(
      "int32",
      [1, tokens],
      row.map(() => 1),
    ),
    prompt: tensor("int64", [1, tokens], row),
    columns: tensor(
      "float32",
      [1, tokens],
      row.map((_, at) => at + 1),
    ),
  };
  const read = Object.entries(feeds).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const found = (await evaluate(graph, Object.fromEntries(read))).y?.data as Float32Array;
  const turned = (m: Float32Array, rows: number, columns: number) =>
    m.map((_, at) => Number(m[(at % rows) * columns + Math.floor(at / rows)]));
  const plain = times(given.x, turned(given.w, size, size), [tokens, size, size]);
  const u = times(given.x, turned(given.a, rank, size), [tokens, size, rank]);
  const update = times(u, turned(given.b, size, rank), [tokens, rank, size]);
  const expected = plain.map((value, at) => value + (at >= start * size ? 1.5 * Number(update[at]) : 0));
  return exactly("one map against plain arithmetic", gap(found, expected), 1e-5);
}

/** Which symbol follows which, and which does once invoked. */
const successor = (which: "base" | "invoked") => {
  const random = rng(11, "alora", which);
  const order = Array.from({ length: SYMBOLS }, (_, at) => at);
  for (let at = SYMBOLS - 1; at > 0; at--) {
    const other = Math.floor(random.uniform() * (at + 1));
    [order[at], order[other]] = [order[other] as number, order[at] as number];
  }
  return order;
};

/** A chain, the invocation, another chain; `judged` says which part counts. */
function chains(part: string, count: number, after: "base" | "invoked", judged: "before" | "after" | "all") {
  const [rule, called] = [successor("base"), successor(after)];
  return Array.from({ length: count }, (_, index) => {
    const random = rng(13, "alora", part, index);
    const draw = () => Math.floor(random.uniform() * SYMBOLS);
    const ids = new Int32Array(LENGTH);
    const lossMask = new Uint8Array(LENGTH);
    const second = BEFORE + CALL.length;
    for (let at = 0; at < LENGTH; at++) {
      const isCall = at >= BEFORE && at < second;
      const isStart = at === 0 || at === second;
      const follows = at < BEFORE ? rule : called;
      ids[at] = isCall ? Number(CALL[at - BEFORE]) : isStart ? draw() : Number(follows[Number(ids[at - 1])]);
      const counts = judged === "all" || at < BEFORE === (judged === "before");
      lossMask[at] = !isCall && !isStart && counts ? 1 : 0;
    }
    return { ids, lossMask };
  });
}

/** Share of judged symbols that the model finds the likeliest. */
async function accuracy(model: CausalLm, rows: ReturnType<typeof chains>): Promise<number> {
  let [right, all] = [0, 0];
  for (const { ids, lossMask } of rows) {
    const { logits } = await pass(model, [...ids]);
    for (let at = 1; at < LENGTH; at++) {
      if (lossMask[at] === 0) continue;
      const scores = logits[at - 1] as Float32Array;
      all++;
      if (scores.indexOf(Math.max(...scores)) === ids[at]) right++;
    }
  }
  return right / all;
}

const packed = (rows: ReturnType<typeof chains>) => packExamples(rows, { length: LENGTH, strategy: "none" });
const data = (after: "base" | "invoked", judged: "after" | "all"): Language => ({
  train: packed(chains("train", 400, after, judged)),
  validation: packed(chains("validation", 50, after, judged)),
});

let known: Promise<CausalLm> | undefined;

/** A model that goes on as its rule says, invoked or not. */
async function pretrained(): Promise<CausalLm> {
  const model = await unfreeze(freshLm(2, 32, 5));
  await learn(model, data("base", "all"), { steps: 200, lr: 1e-2 });
  return freeze(model);
}

async function learningChecks(method: Method<AloraConfig>): Promise<Check[]> {
  known ??= pretrained();
  const base = await known;
  const [before, after] = [chains("test", 16, "invoked", "before"), chains("test", 16, "invoked", "after")];
  const taught = async (adaptation: Adaptation) => {
    const model = await adapt(base, adaptation);
    await learn(model, data("invoked", "after"), { steps: 300, lr: 1e-2 });
    return { model, before: await accuracy(model, before), after: await accuracy(model, after) };
  };
  const own = await taught(activated(method));
  const plain = await taught(lora(SETTINGS) as unknown as Adaptation);
  const atBase = await accuracy(base, before);
  const drift = await Promise.all(
    before.map(async ({ ids }) => {
      const [a, b] = [await pass(own.model, [...ids]), await pass(base, [...ids])];
      return most(rowGaps(a.logits.slice(0, BEFORE), b.logits.slice(0, BEFORE)));
    }),
  );
  return [
    atLeast("accuracy of the base before the invocation", atBase, 0.95),
    between("and after it, where another rule holds", await accuracy(base, after), 0, 0.2),
    between("taught the other rule: accuracy of LoRA after it", plain.after, 0.95, 1),
    between("of aLoRA, over LoRA's", own.after / plain.after, 0.98, 1.1),
    exactly("change of aLoRA's logits before it", most(drift)),
    between("accuracy of LoRA before it, over the base's", plain.before / atBase, 0, 0.5),
  ];
}
