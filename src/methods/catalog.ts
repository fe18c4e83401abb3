import { loraMethod } from "./lowrank/lora.js";
import type { Method, SiteConfig } from "./method.js";

/** Every method that reparametrises sites; a new one is its file and one line here. */
export const siteMethods = [loraMethod] as unknown as readonly Method<SiteConfig>[];
