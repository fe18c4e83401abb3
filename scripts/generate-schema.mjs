// Writes what follows from the command line's schemas: schema/tunesmith.schema.json, by which editors check configuration
// files, and the tables of docs/cli.md.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { commands } from "../dist/cli/commands.js";
import { optionsMarkdown } from "../dist/cli/config/docs.js";
import { configJsonSchema } from "../dist/cli/config/schema.js";

const folder = new URL("../schema/", import.meta.url);
mkdirSync(folder, { recursive: true });
writeFileSync(new URL("tunesmith.schema.json", folder), `${JSON.stringify(configJsonSchema(), null, 2)}\n`);

const MARK = "<!-- options: written by npm run schema -->\n";
const page = new URL("../docs/cli.md", import.meta.url);
const [before] = readFileSync(page, "utf8").split(MARK);
writeFileSync(page, `${before}${MARK}\n${optionsMarkdown(commands)}\n`);
