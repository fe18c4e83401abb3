import { TunesmithError } from "../../errors/index.js";
import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import type { Adapter } from "../adapter.js";
import { type LoraConfig, loraMethod } from "../lowrank/lora.js";
import { loraScale } from "../lowrank/scale.js";
import type { SharedSpec, SiteCall, SiteShape } from "../method.js";

/** Name at a site of an expert's tensor. */
const expertKey = (expert: number, factor: "A" | "B") => `${expert}/lora_${factor}`;
const factorOf = (key: string) => (key.endsWith("_A") ? "A" : "B");

/** The experts' tensors, each lent to its module; `numbers` of one, where they are not its own. */
export function expertTensors(
  experts: readonly Adapter[],
  trainable: boolean,
  numbers: (own: Float32Array, path: string, key: string) => Float32Array = (own) => own,
): Record<string, SharedSpec> {
  const entries = experts.flatMap(({ sites }, expert) =>
    [...sites.values()].flatMap(({ shape: { path }, tensors }) =>
      Object.entries(tensors).map(([key, { tensor: own }]): [string, SharedSpec] => [
        `${expert}/${path}.${key}`,
        {
          shape: own.shape,
          trainable,
          init: () => numbers(own.data as Float32Array, path, key),
          readers: { paths: [path], as: expertKey(expert, factorOf(key)) },
        },
      ]),
    ),
  );
  return Object.fromEntries(entries);
}

/** Σₑ wₑ·sₑ·Bₑ·Aₑ·x on top of y, for weights `[tokens, experts]`; `factor` of all. */
export function addExperts(
  { tensors, site, x, y, gate, apply, mix }: SiteCall,
  weights: Value,
  experts: readonly Adapter[],
  factor = 1,
): Value {
  const { a, b, columns, scales } = stacked(tensors, site, experts, factor);
  const spread = ops.mul(ops.gather(weights, ops.ints(columns), 1), scales);
  return mix(ops.mul(ops.mul(apply(x, a), spread), gate), b, { onto: y });
}

/** The factors of all experts at a module one after the other, whose each column is, and its scale. */
function stacked(tensors: SiteCall["tensors"], site: SiteShape, experts: readonly Adapter[], factor: number) {
  const own = experts.flatMap(({ adaptation }, expert) => {
    const a = tensors[expertKey(expert, "A")];
    const scale = loraScale(site.path, adaptation.config as LoraConfig).scale * factor;
    return a ? [{ expert, a, b: tensors[expertKey(expert, "B")] as Value, scale }] : [];
  });
  const perColumn = (value: (at: (typeof own)[0]) => number) =>
    own.flatMap((each) => new Array<number>(each.a.shape[0] as number).fill(value(each)));
  const scales = Float32Array.from(perColumn(({ scale }) => scale));
  return {
    a: ops.concat(
      own.map(({ a }) => a),
      0,
    ),
    b: ops.concat(
      own.map(({ b }) => b),
      1,
    ),
    columns: perColumn(({ expert }) => expert),
    scales: constant(tensor("float32", [scales.length], scales)),
  };
}

/** The error for an adapter that cannot be an expert of a method. */
export const notAnExpert = (what: string, method: string, reason: string): TunesmithError =>
  new TunesmithError("adapter-invalid", `${what} cannot be an expert of ${method}: ${reason}`, {
    fix: "experts are plain LoRA adapters of the kinds of maps that the method takes",
  });

/** Throws `adapter-invalid` for an adapter that cannot be an expert. */
export function checkExpert(
  { adaptation, saved, tokens, sites }: Adapter,
  what: string,
  { name, kinds }: { readonly name: string; readonly kinds: readonly SiteShape["kind"][] },
): void {
  const refuse = (reason: string) => {
    throw notAnExpert(what, name, reason);
  };
  if (adaptation.method.name !== loraMethod.name) refuse(`it is of ${adaptation.method.name}`);
  if (saved.length > 0 || tokens.length > 0) refuse("it trains weights of the base whole");
  for (const { shape, tensors } of sites.values()) {
    const extra = Object.keys(tensors).find((key) => !/^lora_(embedding_)?[AB]$/.test(key));
    if (extra) refuse(`it has '${extra}' at ${shape.path}`);
    const kind = { conv: "a convolution", embedding: "an embedding", linear: "a linear map" }[shape.kind];
    if (!kinds.includes(shape.kind)) refuse(`${shape.path} is ${kind}`);
  }
}
