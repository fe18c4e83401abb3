import { z } from "zod";
import { type Ia3Config, ia3Method } from "../multiplicative/ia3.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const names = z.union([z.string(), z.array(z.string())]);

const escaped = (text: string) => text.replaceAll(".", "\\.");

/** A list as PEFT takes it, whose names must be targets; otherwise as an expression, which may say anything. */
function feedforwardNames({ feedforward, targets }: Ia3Config): string | readonly string[] {
  if (typeof feedforward === "string") return feedforward;
  const known = typeof targets === "string" ? [] : (targets ?? []);
  return feedforward.every((name) => known.includes(name))
    ? feedforward
    : `.*(?:${feedforward.map(escaped).join("|")})`;
}

/** (IA)³. One name for both of its vectors: which a module has follows from the config. */
export const ia3Mapping: PeftMapping<Ia3Config> = {
  peftType: "IA3",
  method: ia3Method,
  options(config, file) {
    const own = parsePart(z.looseObject({ feedforward_modules: names.nullish() }), config, file);
    return own.feedforward_modules == null ? {} : { feedforward: own.feedforward_modules };
  },
  config: (own) => ({
    feedforward_modules: feedforwardNames(own),
    fan_in_fan_out: false,
    init_ia3_weights: true,
  }),
  suffix: () => "ia3_l",
  fileShape(key, { conv }, [size]) {
    if (conv) return [1, size as number, ...conv.kernel.map(() => 1)];
    return key === "ia3_l" ? [size as number, 1] : [1, size as number];
  },
};
