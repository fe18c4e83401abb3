import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { decompositions } from "../graph/index.js";
import { stops, vjpRules } from "./index.js";

test("docs/ops.md lists every operator that differentiation knows", () => {
  const text = readFileSync(new URL("../../docs/ops.md", import.meta.url), "utf8");
  const listed = [...text.matchAll(/^\| (\S+) \| (rule|decomposition|stops) \|/gm)].map((match) => match[1]);
  const known = new Set([...vjpRules.keys(), ...decompositions.keys(), ...stops]);
  expect(listed.toSorted(), "run node scripts/generate-op-table.mjs").toEqual([...known].sort());
});

test("no operator both has a rule and stops", () => {
  expect([...stops].filter((op) => vjpRules.has(op) || decompositions.has(op))).toEqual([]);
});
