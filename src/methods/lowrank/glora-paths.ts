import type { TrainingHooks } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import type { HookContext, HookSite, SiteShape } from "../method.js";
import type { GloraConfig, GloraForms } from "./glora.js";

export type GloraTensor = "A" | "B" | "C" | "D" | "E";
const TENSORS: readonly GloraTensor[] = ["A", "B", "C", "D", "E"];

/** Rank of a lora form; without a number, the largest. */
export const gloraRank = (form: string, ranks: readonly number[]): number =>
  Number(/^lora-(\d+)$/.exec(form)?.[1] ?? Math.max(...ranks));

/** The forms each support tensor of a module may take in a supernet, and where each lies in the module's one-hot masks. */
export interface GloraChoices {
  readonly forms: Readonly<Record<GloraTensor, readonly string[]>>;
  /** Length of all masks together. */
  readonly size: number;
  at(tensor: GloraTensor, form: string): number;
  masks(chosen: GloraForms): Float32Array;
}

/** Tensors that would act on a bias that is not there have one form, none. */
export function gloraChoices({ hasBias }: SiteShape, { ranks, newBias }: GloraConfig): GloraChoices {
  const lora = [...new Set(ranks)].map((rank) => `lora-${rank}`);
  const biased = hasBias || newBias;
  const shifts = ["none", "constant", "vector"];
  const forms = {
    A: ["none", "constant", "vector", ...lora],
    B: ["none", "constant", "vector", ...lora],
    C: biased ? ["none", "vector", ...lora] : ["none"],
    D: hasBias ? shifts : ["none"],
    E: biased ? shifts : ["none"],
  };
  const starts = new Map<GloraTensor, number>();
  let size = 0;
  for (const name of TENSORS) {
    starts.set(name, size);
    size += forms[name].length;
  }
  const at = (name: GloraTensor, form: string) => {
    const whole = form === "lora" ? `lora-${gloraRank(form, ranks)}` : form;
    return (starts.get(name) ?? 0) + Math.max(0, forms[name].indexOf(whole));
  };
  return {
    forms,
    size,
    at,
    masks(chosen) {
      const masks = new Float32Array(size);
      for (const name of TENSORS) masks[at(name, formOf(chosen, name))] = 1;
      return masks;
    },
  };
}

export const formOf = (forms: GloraForms, name: GloraTensor): string =>
  forms[name.toLowerCase() as keyof GloraForms];

/** Forms from one index per support tensor. */
export function formsAt({ forms }: GloraChoices, indices: readonly number[]): GloraForms {
  const pick = (name: GloraTensor, at: number) => forms[name][indices[at] ?? 0] ?? "none";
  const [a, b, c, d, e] = TENSORS.map(pick);
  return { a, b, c, d, e } as GloraForms;
}

/** Sets a module of a supernet to a configuration: the masks are fed, so the graph stays. */
export function setForms(site: HookSite, chosen: GloraForms, config: GloraConfig): void {
  const fed = site.tensors.glora_paths?.tensor.data as Float32Array;
  fed.set(gloraChoices(site.shape, config).masks(chosen));
}

/** Which numbers a form reads: the others take no part in an update. */
function reads(form: string, part: string): boolean {
  if (part === "Xu") return form.startsWith("lora");
  return form !== "none";
}

/** A supernet's updates: a configuration is drawn per module and update; at the end the one configured stays. */
export function drawPaths({ config, sites }: HookContext<GloraConfig>): TrainingHooks {
  if (!config.supernet) return {};
  const owners = new Map(
    sites.flatMap((site) =>
      Object.entries(site.tensors).map(([key, { name }]) => [name, { site, key }] as const),
    ),
  );
  const drawn = new Map<HookSite, GloraForms>();
  return {
    beforeUpdate({ step }) {
      for (const site of sites) {
        const choices = gloraChoices(site.shape, config);
        const random = rng(step, "glora", site.shape.path).fillUniform(new Float32Array(TENSORS.length));
        const indices = TENSORS.map((name, at) =>
          Math.floor((random[at] as number) * choices.forms[name].length),
        );
        const forms = formsAt(choices, indices);
        drawn.set(site, forms);
        setForms(site, forms, config);
      }
    },
    isTrained(name) {
      const owner = owners.get(name);
      const forms = owner && drawn.get(owner.site);
      if (!owner || !forms) return true;
      const [, tensor, part] = owner.key.split(/[_.]/);
      return reads(formOf(forms, tensor as GloraTensor), part ?? "");
    },
    afterUpdate({ step, steps }) {
      if (step < steps) return;
      for (const site of sites) setForms(site, configuredForms(site.shape, config), config);
    },
  };
}

const configuredForms = ({ path }: SiteShape, config: GloraConfig): GloraForms =>
  config.chosen[path] ?? config;
