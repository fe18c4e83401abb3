import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { gather } from "../../tensor/formats/strided.js";
import { bytesOf, type Tensor, toFloat32 } from "../../tensor/index.js";
import { PREFIX } from "../peft/names.js";
import { patternValue } from "../targets.js";

const table = z.record(z.string(), z.number()).nullish();

/** The LoRA fields of `adapter_config.json`; other keys are let through. */
const schema = z.looseObject({
  peft_type: z.literal("LORA"),
  base_model_name_or_path: z.string().nullish(),
  r: z.number().int().positive().default(8),
  lora_alpha: z.number().default(8),
  lora_bias: z.boolean().nullish(),
  rank_pattern: table,
  alpha_pattern: table,
  target_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  modules_to_save: z.array(z.string()).nullish(),
  use_dora: z.boolean().nullish(),
  use_rslora: z.boolean().nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});

/** `adapter_config.json` of a LoRA adapter. */
export type PeftLoraConfig = z.infer<typeof schema>;

/** Starts whose files act on a changed base, which no other format can say. */
const RESIDUAL = /^(pissa|olora|corda|loftq|lora_ga)/;
/** Options under which the tensors are not plain factors. */
const FOREIGN = [
  "alora_invocation_tokens",
  "arrow_config",
  "kasa_config",
  "layer_replication",
  "target_parameters",
  "use_bdlora",
  "use_qalora",
];

/** Checks a LoRA config. Throws `adapter-invalid` naming what cannot be converted. */
function loraConfig(json: unknown): PeftLoraConfig {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(
      `adapter_config.json: ${issue?.path.join(".")}: ${issue?.message}`,
      "only LoRA adapters convert",
    );
  }
  const config = parsed.data;
  const foreign = FOREIGN.find(
    (key) => config[key] !== undefined && config[key] !== null && config[key] !== false,
  );
  if (foreign !== undefined)
    throw invalid(`the adapter uses '${foreign}', which other formats lack`, "merge it instead");
  if (RESIDUAL.test(String(config.init_lora_weights))) {
    throw invalid(
      `init_lora_weights '${config.init_lora_weights}' belongs to a changed base`,
      "save it in portable form first (saveAdapter does), which makes it a plain LoRA",
    );
  }
  return config;
}

/** An adapter as PEFT has it in a folder: tensors by their names there, and `adapter_config.json`. */
export interface PeftTensors {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The object of `adapter_config.json`. */
  readonly config: PeftLoraConfig;
}

/** Tensors by name, as a file of any format holds them. */
export type NamedTensors = ReadonlyMap<string, Tensor>;

/** Low-rank factors of one module: W' = W + scale·B·A. Every format is read into these and written from them. */
export interface LoraModule {
  readonly path: string;
  /** `[r, in]` (`[r, in, kh, kw]` of a convolution, `[r, rows]` of an embedding). */
  readonly a: Tensor;
  /** `[out, r]` (`[out, r, 1, 1]` of a convolution, `[width, r]` of an embedding). */
  readonly b: Tensor;
  readonly scale: number;
  readonly embedding: boolean;
  /** DoRA's row norms, `[out]`. */
  readonly magnitude?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
}

/** Everything an adapter file says. */
export interface LoraParts {
  readonly modules: readonly LoraModule[];
  /** Tensors trained whole, by their name in the model. */
  readonly saved: ReadonlyMap<string, Tensor>;
}

/** The error for a file that does not hold what its format promises. */
export function invalid(why: string, fix: string): TunesmithError {
  return new TunesmithError("adapter-invalid", why, { fix });
}

/** Leaves of module paths that are tables of rows; where only names are known, they tell embeddings apart. */
const EMBEDDINGS =
  /(^|\.)(embed_tokens|wte|wpe|word_embeddings|position_embeddings|tok_embeddings|token_embedding|embed_in)$/;

export const isEmbeddingPath = (path: string): boolean => EMBEDDINGS.test(path);

export const rankOf = ({ a }: LoraModule): number => a.shape[0] ?? 0;

/** Throws `adapter-invalid` unless the factors of every module fit together. */
export function checkModules(modules: readonly LoraModule[]): void {
  if (modules.length === 0)
    throw invalid("no low-rank factors are among the tensors", "give the file of a LoRA adapter");
  const seen = new Set<string>();
  for (const { path, a, b } of modules) {
    if (seen.has(path))
      throw invalid(`'${path}' occurs twice`, "the file mixes two naming schemes; split it");
    seen.add(path);
    if (a.shape.length < 2 || a.shape[0] !== b.shape[1]) {
      throw invalid(
        `'${path}': A [${a.shape}] and B [${b.shape}] have different ranks`,
        "write the file again",
      );
    }
  }
}

/** Writes the parts as PEFT does. Ranks and scales that differ between modules go into the pattern tables. */
export function toPeft(parts: LoraParts, options: { readonly base?: string | undefined } = {}): PeftTensors {
  const { modules, saved } = parts;
  checkModules(modules);
  const tensors = new Map<string, Tensor>();
  for (const module of modules) {
    const { path, a, b, embedding, magnitude, bias } = module;
    tensors.set(`${PREFIX}${path}.${embedding ? "lora_embedding_A" : "lora_A.weight"}`, a);
    tensors.set(`${PREFIX}${path}.${embedding ? "lora_embedding_B" : "lora_B.weight"}`, b);
    if (bias) tensors.set(`${PREFIX}${path}.lora_B.bias`, bias);
    if (magnitude) tensors.set(`${PREFIX}${path}.lora_magnitude_vector`, magnitude);
  }
  for (const [name, value] of saved) tensors.set(`${PREFIX}${name}`, value);
  return { tensors, config: configOf(parts, options.base) };
}

function configOf({ modules, saved }: LoraParts, base: string | undefined): PeftLoraConfig {
  const ranks = modules.map((module): [string, number] => [module.path, rankOf(module)]);
  // The product can miss a whole number by the last bit of float32 scales.
  const alphas = modules.map((module): [string, number] => [
    module.path,
    tidy(module.scale * rankOf(module)),
  ]);
  const [r, alpha] = [mostCommon(ranks), mostCommon(alphas)];
  const dora = modules.some((module) => module.magnitude);
  if (dora && !modules.every((module) => module.magnitude)) {
    throw invalid("only some modules have DoRA magnitudes", "PEFT has them for all modules or none");
  }
  const owners = [...saved.keys()].map((name) => {
    const dot = name.lastIndexOf(".");
    if (dot > 0) return name.slice(0, dot);
    throw invalid(`'${name}' belongs to no module`, "leave it out: PEFT keeps tensors of modules only");
  });
  const json = {
    peft_type: "LORA",
    base_model_name_or_path: base ?? null,
    r,
    lora_alpha: alpha,
    lora_bias: modules.some((module) => module.bias),
    rank_pattern: patterns(ranks, r),
    alpha_pattern: patterns(alphas, alpha),
    target_modules: modules.map((module) => module.path),
    modules_to_save: owners.length > 0 ? [...new Set(owners)] : null,
    use_dora: dora,
    use_rslora: false,
    fan_in_fan_out: false,
    inference_mode: true,
  };
  return loraConfig(json);
}

const tidy = (value: number) =>
  Math.abs(value - Math.round(value)) < 1e-6 * Math.abs(value) ? Math.round(value) : value;

function mostCommon(values: readonly (readonly [string, number])[]): number {
  const counts = new Map<number, number>();
  for (const [, value] of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((x, y) => y[1] - x[1] || x[0] - y[0])[0]?.[0] ?? 1;
}

/** Longer paths first: a key also matches paths that end in it, and the first match counts. */
function patterns(values: readonly (readonly [string, number])[], common: number): Record<string, number> {
  const exceptions = values.filter(([, value]) => value !== common);
  // A deviating suffix of another module's path would claim that module too, so that one is named as well.
  const claimed = values.filter(
    ([path, value]) => value === common && exceptions.some(([other]) => path.endsWith(`.${other}`)),
  );
  return Object.fromEntries([...exceptions, ...claimed].sort((x, y) => y[0].length - x[0].length));
}

const NAME =
  /^(.*)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|lora_magnitude_vector(?:\.weight)?)$/;

/** What VeLoRA and MonteCLoRA need for training only: without it they are LoRA. */
const FOR_TRAINING = /\.(lora_velora_embed|lora_monteclora_sampler\.\w+)$/;

/** Reads PEFT-named tensors. Throws `adapter-invalid` for a name without PEFT's prefix, or half a pair. */
export function fromPeft(adapter: PeftTensors): LoraParts {
  const { tensors } = adapter;
  const config = loraConfig(adapter.config);
  const found = new Map<string, Map<string, Tensor>>();
  const saved = new Map<string, Tensor>();
  for (const [name, value] of tensors) {
    if (!name.startsWith(PREFIX))
      throw invalid(`'${name}' lacks '${PREFIX}'`, "give tensors as PEFT names them");
    if (FOR_TRAINING.test(name)) continue;
    const match = NAME.exec(name.slice(PREFIX.length));
    if (!match) saved.set(name.slice(PREFIX.length), value);
    else put(found, match[1] ?? "", (match[2] ?? "").replace(/\.weight$/, ""), value);
  }
  const modules = [...found].map(([path, entries]): LoraModule => {
    const embedding = entries.has("lora_embedding_A");
    const rank = patternValue(config.rank_pattern ?? {}, path, config.r);
    const alpha = patternValue(config.alpha_pattern ?? {}, path, config.lora_alpha);
    return {
      path,
      ...pair(entries, path, embedding ? ["lora_embedding_A", "lora_embedding_B"] : ["lora_A", "lora_B"]),
      scale: alpha / (config.use_rslora ? Math.sqrt(rank) : rank),
      embedding,
      magnitude: entries.get("lora_magnitude_vector"),
      bias: entries.get("lora_B.bias"),
    };
  });
  checkModules(modules);
  return { modules, saved };
}

/** Collects tensors by module and role; two for one role are an error. */
export function put(
  found: Map<string, Map<string, Tensor>>,
  path: string,
  role: string,
  value: Tensor,
): void {
  const entries = found.get(path) ?? new Map<string, Tensor>();
  if (entries.has(role))
    throw invalid(`'${path}' has two tensors for ${role}`, "the file mixes two naming schemes; split it");
  found.set(path, entries.set(role, value));
}

/** A and B of a module; throws `adapter-invalid` naming what is missing. */
export function pair(
  entries: ReadonlyMap<string, Tensor>,
  path: string,
  roles: readonly [string, string],
): { readonly a: Tensor; readonly b: Tensor } {
  const [a, b] = [entries.get(roles[0]), entries.get(roles[1])];
  if (a && b) return { a, b };
  throw invalid(`'${path}' has no ${a ? roles[1] : roles[0]}`, "the file is incomplete; write it again");
}

/** Throws `adapter-invalid` for what a format has no place for. */
export function refuse(
  parts: LoraParts,
  format: string,
  lacks: { readonly dora?: true; readonly saved?: true; readonly embedding?: true },
): void {
  const bad = (what: string, which: string) =>
    invalid(`${format} has no place for ${what} ('${which}')`, "merge the adapter, or train without it");
  for (const module of parts.modules) {
    if (module.bias) throw bad("the bias of an update", module.path);
    if (lacks.dora && module.magnitude) throw bad("DoRA", module.path);
    if (lacks.embedding && module.embedding) throw bad("adapted embeddings", module.path);
  }
  const [first] = parts.saved.keys();
  if (lacks.saved && first !== undefined) throw bad("modules trained whole", first);
}

/** The transpose of a matrix. Throws `adapter-invalid` for other ranks. */
export function transposed(matrix: Tensor, name: string): Tensor {
  const [rows, columns] = matrix.shape;
  if (matrix.shape.length !== 2 || rows === undefined || columns === undefined) {
    throw invalid(
      `'${name}' has shape [${matrix.shape}], not that of a matrix`,
      "only linear layers and embeddings convert",
    );
  }
  const view = { dtype: matrix.dtype, shape: [columns, rows], strides: [1, columns], offset: 0 };
  return gather(view, bytesOf(matrix));
}

/** The values times a factor, in float32; the tensor itself for a factor of 1. */
export function scaled(source: Tensor, factor: number): Tensor {
  if (factor === 1) return source;
  return { dtype: "float32", shape: source.shape, data: toFloat32(source).map((value) => value * factor) };
}

/** The only number of a tensor such as kohya's `alpha`. */
export function onlyNumber(value: Tensor, name: string): number {
  const values = toFloat32(value);
  const [first] = values;
  if (values.length === 1 && first !== undefined && Number.isFinite(first)) return first;
  throw invalid(`'${name}' is not a single number`, "write the file again");
}
