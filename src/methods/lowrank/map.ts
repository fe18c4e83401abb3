import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  InitContext,
  Method,
  SiteConfig,
  SiteShape,
  TensorNumbers,
  TensorSpec,
  TensorValues,
} from "../method.js";

const own = {
  init: z
    .enum(["beta0", "lora"])
    .default("beta0")
    .describe("beta0: the update starts random and its size at zero; lora: it starts as its method says"),
  betaInit: z
    .number()
    .positive()
    .default(0.01)
    .describe("size of the update over that of W at the start of lora"),
  scalarLr: z
    .number()
    .positive()
    .default(10)
    .describe("learning rate of the two sizes over that of the rest"),
  detachNorm: z
    .boolean()
    .default(false)
    .describe("hold the norm of the update constant in the backward pass"),
};

/** What options of methods may hold, in files as on the command line. */
const plainValue = z.union([z.number(), z.boolean(), z.string()]);
const optionValue = z.union([plainValue, z.array(plainValue), z.record(z.string(), plainValue)]);

const schema = siteConfigSchema.extend({
  inner: z.string().default("lora").describe("the method of the update: one that adds to the weight"),
  options: z.record(z.string(), optionValue).default({}).describe("options of that method, by their names"),
  ...own,
});

/** Configuration of MAP, after defaults. */
export type MapConfig = z.infer<typeof schema>;

const ownSchema = z.strictObject(own);
export type MapOptions = z.input<typeof ownSchema>;

/** The part of a configuration that all methods share, and the rest. */
function split(config: SiteConfig) {
  const common = new Set(Object.keys(siteConfigSchema.shape));
  const entries = Object.entries(config).filter(([, value]) => value !== undefined);
  return {
    site: Object.fromEntries(entries.filter(([key]) => common.has(key))),
    rest: Object.fromEntries(entries.filter(([key]) => !common.has(key))),
  };
}

/** Keeps the norm of an update, and its derivative, away from zero. */
const EPSILON = 1e-16;

const frobenius = (x: Value): Value =>
  ops.sqrt(ops.add(ops.reduceSum(ops.square(x), undefined, false), EPSILON));

/** a and b: sizes of base and update over that of W. Trained are their distances from the start, in steps of `scalarLr`. */
function sizes({ map_alpha: alpha, map_beta: beta }: TensorValues, { init, betaInit, scalarLr }: MapConfig) {
  return {
    a: ops.add(ops.mul(alpha as Value, scalarLr), 1),
    b: ops.add(ops.mul(beta as Value, scalarLr), init === "lora" ? betaInit : 0),
  };
}

/** A start that is all zero, made Kaiming-uniform: with "beta0" the update must have a direction. */
const random =
  (shape: readonly number[], init: TensorSpec["init"]) =>
  async (context: InitContext): Promise<TensorNumbers> => {
    const numbers = await init(context);
    if (!(numbers instanceof Float32Array) || numbers.some((value) => value !== 0)) return numbers;
    const bound = 1 / Math.sqrt(shape.at(-1) ?? 1);
    return context.uniform(numbers.length, -bound, bound);
  };

/**
 * MAP (arXiv 2505.23094) over any of some methods that add to the weight: W' = α·W/‖W‖ + β·U/‖U‖ with Frobenius norms, two
 * numbers per module besides those of the update U.
 */
export function mapOver(methods: readonly Method<SiteConfig>[]): Method<MapConfig> {
  const innerOf = (config: MapConfig) => {
    const method = methods.find(({ name }) => name === config.inner);
    const parsed = method?.schema.safeParse({ ...split(config).site, ...config.options });
    if (method && parsed?.success && method.additive?.(parsed.data)) return { method, config: parsed.data };
    throw invalid(config.inner, methods, parsed?.error?.issues[0]);
  };
  /** U: what the inner method makes of a weight of zeros. */
  const update = (values: TensorValues, site: SiteShape, config: MapConfig, like: Value): Value => {
    const { method, config: options } = innerOf(config);
    return method.weight(ops.mul(like, 0), values, site, options);
  };
  const factor = (values: TensorValues, u: Value, config: MapConfig): Value => {
    const size = frobenius(u);
    const whole = config.detachNorm ? ops.stopGradient(size) : size;
    return ops.div(ops.mul(sizes(values, config).b, values.map_norm as Value), whole);
  };
  return {
    name: "map",
    summary:
      "directions of weight and update apart from their sizes, over any method that adds to the weight",
    paper: "2505.23094",
    sized: (size) => ({ options: { rank: size } }),
    schema,
    kinds: ["linear", "conv"],
    tensors(site, config) {
      const { method, config: options } = innerOf(config);
      const inner = Object.entries(method.tensors(site, options));
      if (config.init === "beta0" && inner.some(([name]) => name === "lora_A0")) throw takesFromBase();
      const scalar: TensorSpec = { shape: [], trainable: true, init: () => new Float32Array(1) };
      return {
        ...Object.fromEntries(
          inner.map(([name, spec]) => [
            name,
            config.init === "beta0" && spec.trainable
              ? { ...spec, init: random(spec.shape, spec.init) }
              : spec,
          ]),
        ),
        map_alpha: scalar,
        map_beta: scalar,
        map_norm: {
          shape: [],
          trainable: false,
          init: async ({ weight }) =>
            Float32Array.of(Math.sqrt((await weight()).reduce((sum, w) => sum + w * w, 0))),
        },
      };
    },
    shared(sites, config) {
      const { method, config: options } = innerOf(config);
      return method.shared?.(sites, options) ?? {};
    },
    needs(config) {
      const { method, config: options } = innerOf(config);
      return method.needs?.(options) ?? [];
    },
    weight(weight, values, site, config) {
      const u = update(values, site, config, weight);
      return ops.add(ops.mul(weight, sizes(values, config).a), ops.mul(u, factor(values, u, config)));
    },
    biasDelta(values, site, config, bias, weight) {
      const { method, config: options } = innerOf(config);
      return method.biasDelta?.(values, site, options, bias, weight);
    },
    forward(call, config) {
      const { method, config: options } = innerOf(config);
      const { y, bias, gate, tensors: values, site } = call;
      const zero = ops.mul(y, 0);
      if (method.biasDelta?.(values, site, options, bias, call.weight)) return undefined;
      const ux = method.forward?.({ ...call, y: zero, bias: undefined, gate: ops.scalar(1) }, options);
      if (!ux) return undefined;
      const linear = bias ? ops.sub(y, bias) : y;
      const scaled = ops.mul(linear, ops.sub(sizes(values, config).a, 1));
      const u = update(values, site, config, call.weight());
      return ops.add(y, ops.mul(ops.add(scaled, ops.mul(ux, factor(values, u, config))), gate));
    },
    penalty(sites, config) {
      const { method, config: options } = innerOf(config);
      return method.penalty?.(sites, options);
    },
    hooks(context) {
      const { method, config: options } = innerOf(context.config);
      return method.hooks?.({ ...context, config: options }) ?? {};
    },
  };
}

function invalid(
  inner: string,
  methods: readonly Method<SiteConfig>[],
  issue?: { path: PropertyKey[]; message: string },
): TunesmithError {
  if (issue) {
    return new TunesmithError("config-invalid", `map: ${inner}: ${issue.path.join(".")}: ${issue.message}`, {
      fix: `see the options of ${inner}`,
    });
  }
  return new TunesmithError(
    "config-invalid",
    `map: '${inner}' does not, or not with these options, just add to the weight`,
    {
      fix: `methods that do: ${methods.map(({ name }) => name).join(", ")}`,
    },
  );
}

const takesFromBase = () =>
  new TunesmithError(
    "config-invalid",
    "map: the update starts as a part of the weight, so it has no direction",
    {
      fix: 'start it otherwise, or choose init: "lora"',
    },
  );

/**
 * MAP over an adaptation that adds to the weight; with LoRA, LoMAP. Works with any method whose `additive` says so, also one
 * of your own (give it to `loadAdapter` as `methods: [map(yours).method]`).
 *
 * Throws `config-invalid` for a method that is not additive.
 *
 * @example
 * ```ts
 * import { kradapter, lora, map } from "tunesmith/methods";
 * const lomap = map(lora({ rank: 8, targets: "all-linear" }));
 * const other = map(kradapter({ targets: ["q_proj"] }), { init: "lora", betaInit: 0.02 });
 * ```
 */
export function map<Config extends SiteConfig>(
  inner: Adaptation<Config>,
  options: MapOptions = {},
): Adaptation<MapConfig> {
  const { site, rest } = split(inner.config);
  const method = mapOver([inner.method as unknown as Method<SiteConfig>]);
  const config = parseConfig("map", schema, { ...site, ...options, inner: inner.method.name, options: rest });
  if (!inner.method.additive?.(inner.config)) throw invalid(inner.method.name, []);
  return { method, config };
}
