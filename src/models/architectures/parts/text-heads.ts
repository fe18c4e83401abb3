import { ops, type Value, withScope } from "../../../graph/index.js";
import type { Task, TensorInputs, TensorModel, TensorOutputs, Weights } from "../../types.js";
import type { WeightReader } from "../../weights.js";
import type { TensorArchitecture, TensorDescription } from "../definition.js";
import { isRegression, type LabelConfig, labelsOf } from "./labels.js";
import { activation } from "./layers.js";
import { layerNormLayer, linearLayer } from "./modules.js";
import { asSequences, firstTokens, type Tokens } from "./multi-head.js";
import { type Params, paramsOf, recordSpecs } from "./params.js";
import { type Pooling, pooled, poolingSchema } from "./pooling.js";
import { type Encoded, encodeText, type TextFamily, textInputs } from "./text-encoder.js";

type TextTask = TensorModel["task"];
type TextConfig = Record<string, unknown> & LabelConfig;

/** What follows the family's name in the names of transformers' classes. */
const CLASS_ENDS: Readonly<Partial<Record<Task, string>>> = {
  "masked-lm": "ForMaskedLM",
  "sequence-classification": "ForSequenceClassification",
  regression: "ForSequenceClassification",
  "token-classification": "ForTokenClassification",
  "question-answering": "ForQuestionAnswering",
  embedding: "Model",
};
const TASKS = Object.keys(CLASS_ENDS) as TextTask[];
/** First parts of tensor names of a body that stands alone. */
const BODY = /^(embeddings|embeddings_project|encoder|transformer|pooler)\./;

/** A family of text encoders with its heads: words, classes of texts and of tokens, spans, vectors of texts. */
export function textArchitecture<Config extends TextConfig>(
  family: TextFamily<Config>,
): TensorArchitecture<Config> {
  const describe = (config: Config, task: TextTask): TensorDescription => ({
    task,
    inputs: textInputs(family.sizes(config)),
    probeAxes: { batch: 1, length: 8 },
    defaultTargets: family.defaultTargets,
    ...(task.endsWith("-classification") ? { labels: labelsOf(config) } : {}),
  });
  return {
    modelTypes: family.modelTypes,
    schema: family.schema,
    tasks: TASKS,
    // Position buffers, heads of pre-training, stored copies of tied tensors, and a pooler that a task has no use for.
    ignored: IGNORED,
    taskOf: (config, weights) => taskOf(family, config, weights),
    describe,
    rename: (name, config, weights, task) => rename(family, name, weights, task, !family.sizes(config).tied),
    className: (config, task) => `${family.classes[String(config.model_type)]}${CLASS_ENDS[task]}`,
    untied: {
      head: `${family.words.decoder}.weight`,
      copies: { [`${family.words.decoder}.bias`]: family.words.bias },
      config: () => ({ tie_word_embeddings: false }),
    },
    weightSpecs: (config, task) =>
      recordSpecs(describe(config, task), (params, inputs) =>
        lay(family, config, params, inputs, task, () => false),
      ),
    build: (config, weights: WeightReader, inputs, task) =>
      lay(family, config, paramsOf(weights), inputs, task, weights.has),
  };
}

const IGNORED =
  /\.position_ids$|\.token_type_ids$|(^|\.)pooler\.|^cls\.|^lm_head\.|^predictions\.|^sop_classifier\.|^vocab_|^generator_|^discriminator_|^classifier\.|^qa_outputs\.|^pre_classifier\./;

function lay<Config extends TextConfig>(
  family: TextFamily<Config>,
  config: Config,
  params: Params,
  inputs: TensorInputs,
  task: TextTask,
  has: (name: string) => boolean,
): TensorOutputs {
  const root = task === "embedding" ? "" : `${family.prefix}.`;
  const encoded = encodeText(family, config, params, inputs, root);
  const { tokens, boundaries } = encoded;
  const values = () => {
    switch (task) {
      case "masked-lm":
        return { logits: words(family, config, params, tokens) };
      case "token-classification":
        return { logits: perToken(params, "classifier", tokens, labelsOf(config).length) };
      case "question-answering":
        return spans(params, tokens);
      case "embedding":
        return vectors(family, config, params, inputs, encoded, has);
      default:
        return { logits: sentence(family, config, params, tokens) };
    }
  };
  return { values: values(), boundaries };
}

function words<Config>(family: TextFamily<Config>, config: Config, params: Params, tokens: Tokens): Value {
  const { dense, norm, decoder, bias, activation: act } = family.words;
  const { vocab, embedding, epsilon, tied, activation: own } = family.sizes(config);
  const inner = activation(act ?? own)(linearLayer(params, dense, tokens.rows, embedding));
  const normed = layerNormLayer(params, norm, inner, epsilon);
  const table = tied ? `${family.prefix}.embeddings.word_embeddings` : decoder;
  const weight = params(`${table}.weight`, [vocab, embedding], { head: !tied });
  const shift = params(bias, [vocab], { init: "zeros" });
  const rows = withScope(decoder, () => ops.gemm(normed, weight, shift, { transB: true }));
  return asSequences({ ...tokens, rows });
}

const perToken = (params: Params, name: string, tokens: Tokens, classes: number): Value =>
  asSequences({ ...tokens, rows: linearLayer(params, name, tokens.rows, classes, { head: true }) });

/** Scores for each token to be the first and the last of the answer, `[batch, length]`. */
function spans(params: Params, tokens: Tokens): Record<string, Value> {
  const both = perToken(params, "qa_outputs", tokens, 2);
  const [start, end] = ops.split(both, [1, 1], 2) as [Value, Value];
  return { start_logits: ops.squeeze(start, 2), end_logits: ops.squeeze(end, 2) };
}

function sentence<Config extends TextConfig>(
  family: TextFamily<Config>,
  config: Config,
  params: Params,
  tokens: Tokens,
): Value {
  const { dense, inBody, activation: act, classes } = family.sentence;
  const { width } = family.sizes(config);
  const name = inBody ? `${family.prefix}.${dense}` : dense;
  const inner = linearLayer(params, name, firstTokens(tokens), width, { head: !inBody });
  const active = act === "tanh" ? ops.tanh(inner) : activation(act)(inner);
  return linearLayer(params, classes, active, labelsOf(config).length, { head: true });
}

function vectors<Config extends TextConfig>(
  family: TextFamily<Config>,
  config: Config,
  params: Params,
  { values }: TensorInputs,
  { tokens }: Encoded,
  has: (name: string) => boolean,
): Record<string, Value> {
  const { pooler } = family;
  const pooling: Pooling = poolingSchema.parse(config.sentence_pooling ?? {});
  const width = tokens.rows.shape[1] as number;
  const pooledToken = () => linearLayer(params, String(pooler), firstTokens(tokens), width);
  return {
    sentence_embedding: pooled(tokens, values.attention_mask as Value, pooling),
    last_hidden_state: asSequences(tokens),
    ...(pooler && has(`${pooler}.weight`) ? { pooler_output: ops.tanh(pooledToken()) } : {}),
  };
}

/** The task of `architectures` in the config if the file has its head; else that of the head there is. */
function taskOf<Config extends TextConfig>(
  family: TextFamily<Config>,
  config: Config,
  weights: Weights,
): TextTask {
  const declared = TASKS.find((task) =>
    config.architectures?.some((name) => name.endsWith(String(CLASS_ENDS[task]))),
  );
  const present = headsIn(family, weights);
  const found = weights.size === 0 || (declared && present.includes(declared)) ? declared : present[0];
  if (found === "sequence-classification" && isRegression(config)) return "regression";
  return found ?? "embedding";
}

function headsIn<Config>({ words, sentence, prefix }: TextFamily<Config>, weights: Weights): TextTask[] {
  const dense = sentence.inBody ? `${prefix}.${sentence.dense}` : sentence.dense;
  const has = (name: string) => weights.has(`${name}.weight`);
  const heads: [TextTask, boolean][] = [
    ["question-answering", has("qa_outputs")],
    ["sequence-classification", has(dense) && has(sentence.classes)],
    ["token-classification", has("classifier")],
    ["masked-lm", has(words.dense)],
  ];
  return heads.flatMap(([task, there]) => (there ? [task] : []));
}

/** Body tensors carry the family's prefix below a head and none without; old TensorFlow names of norms are brought up to date. */
function rename<Config>(
  { prefix, words }: TextFamily<Config>,
  name: string,
  weights: Weights,
  task: TextTask | undefined,
  untied: boolean,
): string {
  const current = name
    .replace(/LayerNorm\.gamma$/, "LayerNorm.weight")
    .replace(/LayerNorm\.beta$/, "LayerNorm.bias");
  // A head of its own has its bias at the decoder; the other name then holds one that nobody reads.
  const atDecoder = `${words.decoder}.bias`;
  const isFirst = task === undefined && words.bias !== atDecoder;
  const both = weights.has(words.bias) && weights.has(atDecoder);
  if (isFirst && current === atDecoder && (!both || untied)) return words.bias;
  if (isFirst && current === words.bias && both && untied) return atDecoder;
  const bare = current.startsWith(`${prefix}.`) ? current.slice(prefix.length + 1) : current;
  if (bare === current && !BODY.test(current)) return current;
  return task === "embedding" ? bare : `${prefix}.${bare}`;
}
