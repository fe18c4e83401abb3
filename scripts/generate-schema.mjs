// Writes schema/tunesmith.schema.json, what editors check configuration files with, from the command line's own schema.
import { mkdirSync, writeFileSync } from "node:fs";
import { configJsonSchema } from "../dist/cli/config/schema.js";

const folder = new URL("../schema/", import.meta.url);
mkdirSync(folder, { recursive: true });
writeFileSync(new URL("tunesmith.schema.json", folder), `${JSON.stringify(configJsonSchema(), null, 2)}\n`);
