import { TunesmithError } from "../../errors/index.js";
import { siteMethods } from "../catalog.js";
import type { Method, SiteConfig } from "../method.js";
import { lqLoraMethod } from "../quantised/lq-lora.js";
import { adaloraMapping } from "./adalora.js";
import { adamssMapping } from "./adamss.js";
import { arrowMapping } from "./arrow.js";
import {
  c3aMapping,
  deloraMapping,
  graloraMapping,
  hiraMapping,
  missMapping,
  roadMapping,
} from "./blocks.js";
import { fourierftMapping, shiraMapping, waveftMapping } from "./entries.js";
import { supertuningMapping, tinyloraMapping, uniloraMapping } from "./few-numbers.js";
import { gloraMapping } from "./glora.js";
import { loraMapping } from "./lora.js";
import {
  aloraMapping,
  bdloraMapping,
  kasaMapping,
  montecloraMapping,
  qaloraMapping,
  veloraMapping,
} from "./lora-variants.js";
import { lohaMapping, lokrMapping } from "./lycoris.js";
import type { PeftMapping } from "./mapping.js";
import { lilyMapping, peanutMapping, polyMapping } from "./mixtures.js";
import { ia3Mapping } from "./multiplicative.js";
import { boftMapping, hraMapping, oftMapping } from "./orthogonal.js";
import { OWN, ownConfig } from "./own.js";
import { randloraMapping, vbloraMapping } from "./shared-bases.js";
import { pveraMapping, veraMapping } from "./shared-projections.js";
import { deftProjectionMapping, frodMapping, osfMapping } from "./subspaces.js";
import { beftMapping, lnTuningMapping } from "./whole.js";
import { xloraMapping } from "./xlora.js";

/** Every method whose adapters are written and read as PEFT folders. */
const mappings = [
  aloraMapping,
  arrowMapping,
  bdloraMapping,
  kasaMapping,
  qaloraMapping,
  veloraMapping,
  montecloraMapping,
  loraMapping,
  veraMapping,
  pveraMapping,
  boftMapping,
  oftMapping,
  hraMapping,
  ia3Mapping,
  tinyloraMapping,
  uniloraMapping,
  supertuningMapping,
  lnTuningMapping,
  beftMapping,
  lohaMapping,
  lokrMapping,
  adaloraMapping,
  gloraMapping,
  fourierftMapping,
  waveftMapping,
  shiraMapping,
  hiraMapping,
  missMapping,
  graloraMapping,
  deloraMapping,
  c3aMapping,
  roadMapping,
  randloraMapping,
  vbloraMapping,
  lilyMapping,
  peanutMapping,
  polyMapping,
  xloraMapping,
  osfMapping,
  deftProjectionMapping,
  frodMapping,
  adamssMapping,
] as unknown as readonly PeftMapping[];

/** Options and tensors under our own names. */
function ownMapping(method: Method<SiteConfig>): PeftMapping {
  return {
    peftType: OWN,
    method,
    biasOnly: "adapted_only",
    options: ({ options }) => options as Record<string, unknown>,
    config: (config) => ownConfig(method.name, { ...config }),
    suffix: (key) => key,
    sharedName: (key) => `base_model.${key}`,
  };
}

/** Names of the methods whose adapters PEFT reads. */
export const peftMethodNames: readonly string[] = mappings.map(({ method }) => method.name);

/** Whether PEFT itself reads a method's adapters. */
export const hasPeftFormat = (method: Pick<Method<SiteConfig>, "name">): boolean =>
  peftMethodNames.includes(method.name);

/** The mapping of a method: PEFT's where it has one, else our own names in the same kind of folder. */
export const mappingOf = (method: Method<SiteConfig>): PeftMapping =>
  mappings.find((mapping) => mapping.method.name === method.name) ?? ownMapping(method);

/** Formats that lack what their numbers refer to, and what to do. */
const INCOMPLETE: Readonly<Record<string, string>> = {
  PSOFT:
    "its folders lack the basis, whose signs differ from one linear algebra library to the next; where it was trained, PEFT's save_as_lora(folder, model, rank=r) with its own r writes the same update as LoRA",
};

/** The mapping that answers to a config file. Throws `adapter-invalid`. */
export function mappingFor(
  config: Readonly<Record<string, unknown>>,
  file: string,
  methods: readonly Method<SiteConfig>[] = [],
): PeftMapping {
  const peftType = String(config.peft_type);
  const found = mappings.find(
    (mapping) => mapping.peftType === peftType && (mapping.applies?.(config) ?? true),
  );
  if (found) return found;
  const method = [...methods, ...siteMethods, lqLoraMethod as unknown as Method<SiteConfig>].find(
    ({ name }) => peftType === OWN && name === config.method,
  );
  if (method) return ownMapping(method);
  const what = peftType === OWN ? `method '${config.method}'` : `peft_type '${peftType}'`;
  throw new TunesmithError("adapter-invalid", `${file}: ${what} is not supported`, {
    fix:
      INCOMPLETE[peftType] ??
      `supported: ${[...new Set(mappings.map((mapping) => mapping.peftType))].join(", ")} (case matters); give methods of your own in { methods }`,
  });
}
