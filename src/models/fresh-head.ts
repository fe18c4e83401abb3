import { TunesmithError } from "../errors/index.js";
import {
  dimMul,
  intsOf,
  makeNode,
  type Node,
  ops,
  type Value,
  type Visit,
  withScope,
} from "../graph/index.js";
import { freshWeights, initializerRange } from "./init.js";
import { endsWithName } from "./path-rules.js";
import { tensorInputs } from "./probe.js";
import { mainResult, rewriteOutputs } from "./rewrite.js";
import { broadTargets, type Site, siteOf, sitesOf } from "./sites.js";
import { storedOf } from "./stored.js";
import { withLabels } from "./tensor-model.js";
import type { TensorInputs, TensorModel, TensorOutputs, Weights } from "./types.js";

export interface FreshHeadOptions {
  /** Names of the classes, or how many there are. */
  readonly labels: readonly string[] | number;
  /** Same seed, same head. Default 0. */
  readonly seed?: number;
}

/** What makes probabilities or codes of logits: left out, so that the output is logits. */
const ENDINGS = new Set(["Softmax", "LogSoftmax", "Sigmoid", "QuantizeLinear", "DequantizeLinear", "ArgMax"]);
const BETWEEN = new Set(
  "Relu Clip Add Mul Div Reshape Flatten Squeeze Unsqueeze Transpose Identity Cast Dropout GlobalAveragePool GlobalMaxPool AveragePool ReduceMean".split(
    " ",
  ),
);

/** The classifier of a pass, and what stands between it and the output, from the output down. */
interface Head {
  readonly site: Site;
  readonly above: readonly Node[];
}

/**
 * A classifier for other classes: the last linear map or 1x1 convolution is replaced by a fresh one (Gaussian of deviation
 * `initializer_range`, default 0.02; biases 0), all else is kept. A softmax behind it is left out: the main output is
 * called `logits` and is that. Labels and `id2label` in the config follow.
 *
 * Throws `target-not-found` when the main output does not come from such a map, `config-invalid` for fewer than one class, and
 * `adapter-invalid` for a model with adapters.
 *
 * @example
 * ```ts
 * import { loadOnnxModel, withFreshHead } from "tunesmith/models";
 * const model = withFreshHead(await loadOnnxModel("squeezenet.onnx"), { labels: ["cat", "dog"] });
 * console.log(model.task, model.labels); // image-classification [ 'cat', 'dog' ]
 * ```
 */
export function withFreshHead(model: TensorModel, { labels, seed = 0 }: FreshHeadOptions): TensorModel {
  const names = typeof labels === "number" ? defaultLabels(labels) : labels;
  if (names.length < 1 || new Set(names).size !== names.length) {
    throw new TunesmithError("config-invalid", `a head for ${names.length} classes`, {
      fix: "give at least one class, each name once",
    });
  }
  if (model.parameters.size > 0) {
    throw new TunesmithError("adapter-invalid", "a model with adapters keeps its head", {
      fix: "put the fresh head on the base, then adapt it",
    });
  }
  const outputs = model.build(tensorInputs(model));
  const { site } = headIn(outputs, model);
  const fresh = freshTensors(site, names.length, model.config, seed);
  const base = model;
  return {
    ...model,
    defaultTargets: targetsBesides(site, sitesOf(outputs), model.defaultTargets),
    task: model.task === "custom" ? taskOf(model) : model.task,
    labels: names,
    config: withLabels(model.config, { labels: names }),
    weights: weightsWith(model.weights, site, fresh, sitesOf(outputs)),
    build: (inputs: TensorInputs) => swapped(base.build(inputs), base, fresh),
  };
}

/**
 * The model as a classifier for these classes: with its own head where that has as many outputs, else with a fresh one.
 * Either way `logits` come first and are no probabilities. Throws as `withFreshHead`.
 */
export function withClasses(model: TensorModel, options: FreshHeadOptions): TensorModel {
  const { labels } = options;
  const names = typeof labels === "number" ? defaultLabels(labels) : labels;
  const { site } = headIn(model.build(tensorInputs(model)), model);
  if (site.outFeatures !== names.length) return withFreshHead(model, options);
  return {
    ...model,
    task: model.task === "custom" ? taskOf(model) : model.task,
    labels: names,
    config: withLabels(model.config, { labels: names }),
    build: (inputs: TensorInputs) => swapped(model.build(inputs), model),
  };
}

const defaultLabels = (count: number): string[] =>
  Number.isInteger(count) && count > 0 ? Array.from({ length: count }, (_, at) => `LABEL_${at}`) : [];

function taskOf({ inputs }: TensorModel): TensorModel["task"] {
  if (inputs.some(({ name }) => name === "input_ids")) return "sequence-classification";
  return inputs.length === 1 && inputs[0]?.shape.length === 4 ? "image-classification" : "custom";
}

/** Default targets without a head that is trained whole; where nothing else was one, all other maps. */
function targetsBesides(head: Site, sites: readonly Site[], targets: readonly string[]): readonly string[] {
  const rest = sites.filter(({ path }) => path !== head.path);
  const left = targets.filter((name) => rest.some(({ path }) => endsWithName(path, [name])));
  return left.length > 0 ? left : broadTargets(rest, sites);
}

interface FreshTensors {
  /** `[classes, features]`, or `[classes, channels, 1, 1]`. */
  readonly weight: Value;
  readonly bias: Value;
}

function freshTensors(
  { path, kind, weight, inFeatures }: Site,
  classes: number,
  config: TensorModel["config"],
  seed: number,
): FreshTensors {
  const taps = kind === "conv" ? weight.shape.slice(2).map(() => 1) : [];
  const specs = [
    { name: `${path}.weight`, shape: [classes, inFeatures, ...taps], init: "normal" },
    { name: `${path}.bias`, shape: [classes], init: "zeros" },
  ] as const;
  const [first, second] = [...freshWeights(specs, { std: initializerRange(config), seed }).values()];
  return { weight: first as Value, bias: second as Value };
}

function weightsWith(
  weights: Weights,
  { weightName, bias, path }: Site,
  fresh: FreshTensors,
  sites: readonly Site[],
): Weights {
  const result = new Map(weights);
  if (sites.filter((site) => site.weightName === weightName).length === 1) result.delete(weightName);
  const biasName = bias && storedOf(bias)?.name;
  if (biasName !== undefined) result.delete(biasName);
  return result.set(`${path}.weight`, fresh.weight).set(`${path}.bias`, fresh.bias);
}

/** Finds the classifier below the main output. Throws `target-not-found`. */
function headIn(outputs: TensorOutputs, { origin = "the model" }: Pick<TensorModel, "origin">): Head {
  const above: Node[] = [];
  let value: Value | undefined = mainResult(outputs);
  while (value?.source.kind === "node") {
    const { node }: { node: Node } = value.source;
    const site = siteOf(node);
    if (site && isClassifier(site)) return { site, above };
    if (!ENDINGS.has(node.op) && !BETWEEN.has(node.op)) break;
    above.push(node);
    value = below(node);
  }
  const last = value?.source.kind === "node" ? value.source.node : above.at(-1);
  throw new TunesmithError(
    "target-not-found",
    `${origin} has no classifier that can be replaced: its main output comes from ${last ? `${last.op}${last.scope ? ` in ${last.scope}` : ""}` : "an input"}`,
    {
      fix: "a fresh head needs a linear map or a 1x1 convolution before the output, perhaps under a pooling or a softmax",
    },
  );
}

const isClassifier = ({ kind, conv }: Site): boolean =>
  kind === "linear" || (kind === "conv" && conv?.groups === 1 && conv.kernel.every((size) => size === 1));

/** The one operand that depends on the model's inputs. */
function below(node: Node): Value | undefined {
  const moving = node.inputs.filter((value) => value && !storedOf(value));
  return moving.length === 1 || node.op === "Reshape" ? moving[0] : undefined;
}

/** The pass up to its logits, with the head as it is or a fresh one. */
function swapped(outputs: TensorOutputs, model: TensorModel, fresh?: FreshTensors): TensorOutputs {
  const { site, above } = headIn(outputs, model);
  const chain = new Set(above);
  const visit: Visit = (node, inputs) => {
    if (fresh && node === site.node)
      return [classify(site, inputs[node.inputs.indexOf(site.input)] ?? site.input, fresh)];
    if (!chain.has(node)) return undefined;
    const passed = below(node);
    const x = passed && inputs[node.inputs.indexOf(passed)];
    if (x && (ENDINGS.has(node.op) || (fresh && addsPerClass(node, site.outFeatures)))) return [x];
    return fresh && node.op === "Reshape" && x ? [reshaped(node, x, site.outFeatures, fresh)] : undefined;
  };
  const main = mainResult(outputs);
  const result = rewriteOutputs(outputs, { visit });
  const values = Object.entries(outputs.values).map(([name, value]): [string, Value] => [
    value === main ? "logits" : name,
    value === main ? perClass(result.values[name] as Value) : (result.values[name] as Value),
  ]);
  return { ...result, values: Object.fromEntries(values) };
}

/** `[batch, classes]`, also of pooled maps `[batch, classes, 1, 1]`. */
function perClass(logits: Value): Value {
  const [batch = 1, classes = 1, ...area] = logits.shape;
  return area.length > 0 && area.every((dim) => dim === 1)
    ? ops.reshape(logits, [batch, classes], [logits])
    : logits;
}

/** A bias of the old classes, where it is not part of the map. */
const addsPerClass = ({ op, inputs }: Node, classes: number): boolean =>
  op === "Add" && inputs.some((value) => value && storedOf(value) && value.shape.includes(classes));

function classify({ path, kind, attrs }: Site, x: Value, { weight, bias }: FreshTensors): Value {
  return withScope(path, () => {
    if (kind === "conv") return makeNode("Conv", [x, weight, bias], attrs).outputs[0] as Value;
    if (x.shape.length === 2) return ops.gemm(x, weight, bias, { transB: true });
    const lead = x.shape.slice(0, -1);
    const rows = ops.reshape(x, [lead.reduce((a, b) => dimMul(a, b), 1), x.shape.at(-1) ?? 1], [x]);
    return ops.reshape(ops.gemm(rows, weight, bias, { transB: true }), [...lead, bias.shape[0] ?? 1], [x]);
  });
}

/** A Reshape that names the number of classes names the new one. */
function reshaped(node: Node, x: Value, classes: number, { bias }: FreshTensors): Value {
  const sizes = intsOf(node.inputs[1] as Value);
  if (!sizes)
    return makeNode("Reshape", [x, node.inputs[1]], node.attrs, { scope: node.scope }).outputs[0] as Value;
  const now = bias.shape[0] as number;
  const shape = sizes.map((size, at) => (size === classes ? now : size === 0 ? (x.shape[at] ?? 1) : size));
  return withScope(node.scope, () => ops.reshape(x, shape, [x]));
}
