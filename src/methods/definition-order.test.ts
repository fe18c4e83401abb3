import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loadModel, probeOutputs, sitesOf } from "../models/index.js";
import { definitionOrder } from "./definition-order.js";
import { fixture } from "./testing/fixtures.js";

const { modules } = JSON.parse(
  readFileSync(new URL("./definition-order.fixture.json", import.meta.url), "utf8"),
) as { modules: Readonly<Record<string, readonly string[]>> };

test.each(Object.entries(modules))("%s: modules in the order of their definition", async (name, expected) => {
  const model = await loadModel(fixture(name), { task: "auto" });
  const paths = [...new Set(sitesOf(probeOutputs(model)).map(({ path }) => path))];
  const order = definitionOrder(paths);
  const ours = paths.toSorted((a, b) => Number(order.get(a)) - Number(order.get(b)));
  expect(ours.length).toBeGreaterThan(8);
  expect(ours.filter((path) => expected.includes(path))).toEqual(
    expected.filter((path) => ours.includes(path)),
  );
});

test("part of the children stay as they run", () => {
  const order = definitionOrder(["a.q_proj", "b", "a.v_proj", "a.k_proj"]);
  expect([...order.keys()]).toEqual(["a.q_proj", "a.v_proj", "a.k_proj", "b"]);
});
