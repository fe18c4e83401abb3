import { expect, test } from "vitest";
import { methodNamed, methodNames } from "../../methods/index.js";
import { trainSchema } from "./train-schema.js";

test("no option of a method has the name of one of the run, which it would take the place of", () => {
  const run = new Set(Object.keys(trainSchema.shape));
  const clashes = methodNames.flatMap((name) =>
    Object.keys(methodNamed(name).options.shape).flatMap((key) => (run.has(key) ? [`${name}: ${key}`] : [])),
  );
  expect(clashes).toEqual([]);
});
