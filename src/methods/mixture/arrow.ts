import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import type { Matrix } from "../../runtime/linalg/index.js";
import type { Adapter } from "../adapter.js";
import type { Adaptation, Method, SiteConfig, SiteShape } from "../method.js";
import { sumOverRows, topRoutes, weightsOf } from "../routing.js";
import { addExperts, checkExpert, expertTensors, notAnExpert } from "./experts.js";
import { iteratedDirection, mainDirection } from "./prototype.js";

/** Options of Arrow; experts and general adapters are folders. */
export const arrowSchema = z.strictObject({
  experts: z.array(z.string()).min(1).describe("folders of LoRA adapters for this model: the experts"),
  topK: z
    .number()
    .int()
    .positive()
    .default(3)
    .describe("experts per token, those whose directions it has most of"),
  temperature: z.number().positive().default(1).describe("divides what the softmax over them reads"),
  general: z
    .array(z.string())
    .default([])
    .describe("folders of adapters of general knowledge: their mean is taken off every expert's factors"),
  rngSeed: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe("find directions as PEFT does with this seed, in 15 steps; default: exactly"),
});

/** Options of Arrow, after defaults. */
export type ArrowOptions = z.infer<typeof arrowSchema>;

/** Configuration of an Arrow adapter: the options and the modules that the experts adapt. */
export interface ArrowConfig extends ArrowOptions, Pick<SiteConfig, "targets"> {}

/** Arrow over these experts. */
export interface ArrowMethod extends Method<ArrowConfig> {
  readonly experts: readonly Adapter[];
  readonly general: readonly Adapter[];
}

const numbersAt = ({ sites }: Adapter, path: string, key: string): Float32Array =>
  sites.get(path)?.tensors[key]?.tensor.data as Float32Array;

/** A factor without the mean of the general adapters'. */
function purified(own: Float32Array, path: string, key: string, general: readonly Adapter[]): Float32Array {
  if (general.length === 0) return own;
  const others = general.map((adapter) => numbersAt(adapter, path, key));
  return own.map(
    (value, at) => value - others.reduce((sum, other) => sum + Number(other[at]), 0) / others.length,
  );
}

/** The experts' directions at a module, `[experts, in]`. */
function prototypes(
  { path, inFeatures, outFeatures }: SiteShape,
  { experts, general }: Pick<ArrowMethod, "experts" | "general">,
  seed: number | undefined,
): Float32Array {
  const directions = experts.map((expert) => {
    const factor = (key: string) => purified(numbersAt(expert, path, key), path, key, general);
    const data = factor("lora_A");
    const rank = data.length / inFeatures;
    const a: Matrix = { rows: rank, cols: inFeatures, data };
    const b: Matrix = { rows: outFeatures, cols: rank, data: factor("lora_B") };
    return seed === undefined ? mainDirection(a, b) : iteratedDirection(a, b, seed);
  });
  return Float32Array.from(directions.flatMap((direction) => [...direction]));
}

/**
 * Arrow (arXiv 2405.11157): y + Σₑ cₑ·sₑ·Bₑ·Aₑ·x over the experts whose main input directions pₑ a token has most of, at every module
 * anew: c is the softmax of |x·pₑ| over the `topK` largest. x is not normalised, as in PEFT. Nothing is trained.
 */
export const arrowOver = (experts: readonly Adapter[], general: readonly Adapter[] = []): ArrowMethod => ({
  name: "arrow",
  summary: "trained LoRA adapters, chosen for every token by the input directions that they change most",
  paper: "2405.11157",
  // Of files; targets come from the experts.
  schema: z.object(arrowSchema.shape) as unknown as z.ZodType<ArrowConfig>,
  kinds: ["linear"],
  experts,
  general,
  tensors: (site, { rngSeed }) => ({
    prototypes: {
      shape: [experts.length, site.inFeatures],
      trainable: false,
      stored: false,
      init: () => prototypes(site, { experts, general }, rngSeed),
    },
  }),
  shared: () => expertTensors(experts, false, (own, path, key) => purified(own, path, key, general)),
  unmergeable: () => "its experts are chosen anew for every token",
  weight: (weight) => weight,
  forward(call, { topK, temperature }) {
    const { x, tensors, mask, tally } = call;
    const shares = ops.abs(ops.gemm(x, tensors.prototypes as Value, undefined, { transB: true }));
    const routes = topRoutes(ops.unsqueeze(shares, 1), topK, (taken) =>
      ops.softmax(ops.div(taken, temperature)),
    );
    const weights = weightsOf(routes);
    tally("weights", sumOverRows(weights, mask));
    return addExperts(call, ops.squeeze(weights, 1), experts);
  },
});

/** Throws `adapter-invalid` where an adapter's modules or ranks are not the first's. */
function checkAlike(adapter: Adapter, first: Adapter, what: string): void {
  const shapes = ({ sites }: Adapter) =>
    new Map([...sites].map(([path, { tensors }]) => [path, tensors.lora_A?.tensor.shape.join()]));
  const [own, expected] = [shapes(adapter), shapes(first)];
  const odd = [...new Set([...own.keys(), ...expected.keys()])].find(
    (path) => own.get(path) !== expected.get(path),
  );
  if (odd !== undefined)
    throw notAnExpert(
      what,
      "Arrow",
      `at ${odd} it is not of the first expert's rank, or one of them has nothing there`,
    );
}

/** The adaptation of a model by experts that were read for it. Throws `adapter-invalid`, `config-invalid`. */
export function overDirections(
  options: ArrowOptions,
  experts: readonly Adapter[],
  general: readonly Adapter[],
): Adaptation<ArrowConfig> {
  const [first] = experts;
  if (!first) {
    throw new TunesmithError("config-invalid", "arrow: no experts", { fix: "give at least one adapter" });
  }
  const names = [...options.experts, ...options.general];
  for (const [at, adapter] of [...experts, ...general].entries()) {
    checkExpert(adapter, `'${names[at]}'`, { name: "Arrow", kinds: ["linear"] });
    checkAlike(adapter, first, `'${names[at]}'`);
  }
  const topK = Math.min(options.topK, experts.length);
  return {
    method: arrowOver(experts, general),
    config: { ...options, topK, targets: [...first.sites.keys()] },
  };
}
