import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Tokenizer } from "../models/tokenizer/index.js";
import { readTemplate, resolveTemplate, writeTemplate } from "./index.js";

const tokenizer = (chatTemplate?: string) => ({ chatTemplate }) as Tokenizer;

test("a template is decided once: the option, else the tokenizer's; it comes back from beside the result", async () => {
  const own = await resolveTemplate(tokenizer("own"));
  const given = await resolveTemplate(tokenizer("own"), "given");
  expect([own, given]).toMatchObject([
    { template: "own", from: "tokenizer" },
    { template: "given", from: "option" },
  ]);
  expect(own?.hash).not.toBe(given?.hash);
  expect(await resolveTemplate(tokenizer())).toBeUndefined();
  const folder = await mkdtemp(join(tmpdir(), "tunesmith-template-"));
  expect(await readTemplate(folder)).toBeUndefined();
  if (given) await writeTemplate(folder, given);
  expect(await readTemplate(folder)).toBe("given");
  expect(await readFile(join(folder, "chat_template.jinja"), "utf8")).toBe("given");
  await rm(folder, { recursive: true });
});
