import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { crc32c, maskedCrc32c } from "./crc32c.js";
import { openEventFile, tensorboardTag } from "./writer.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-events-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("CRC-32C of RFC 3720, B.4", () => {
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, at) => at))).toBe(0x46dd794e);
  expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
  expect(maskedCrc32c(new Uint8Array(0))).toBe(0xa282ead8);
});

test("an event file has the bytes of TensorBoard's own writer", async () => {
  const fixture = new URL("../../../../fixtures/tracking/events.json", import.meta.url);
  const expected = Buffer.from(JSON.parse(readFileSync(fixture, "utf8")).bytes, "base64");
  const file = await openEventFile(join(folder, "a"), { createdAt: 1_700_000_000_250, name: "x" });
  await file.write([
    { name: "loss", step: 1, value: 2.5, time: 1_700_000_001_500 },
    { name: "learningRate", step: 1, value: 1e-3, time: 1_700_000_001_500 },
    { name: "evalLoss", step: 3_000_000_000, value: Number.NaN, time: 1_700_000_002_500 },
  ]);
  await file.write([]);
  await file.text("config", "| lr |\n| --- |\n| 1 |");
  await file.close();
  expect(file.path).toBe(join(folder, "a", "events.out.tfevents.1700000000.x"));
  expect(readFileSync(file.path).toString("hex")).toBe(expected.toString("hex"));
});

test.each([
  ["loss", "train/loss"],
  ["gradNorm", "train/grad_norm"],
  ["evalPerplexity", "eval/perplexity"],
  ["evaluations", "train/evaluations"],
  ["mine/Own", "mine/Own"],
])("%s has the tag %s", (name, tag) => expect(tensorboardTag(name)).toBe(tag));
