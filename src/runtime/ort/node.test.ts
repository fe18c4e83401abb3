import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { tensor } from "../../tensor/index.js";
import { place } from "./node.js";

setFlagsFromString("--expose_gc");
const collectGarbage = runInNewContext("gc") as () => void;

const SIZE = 1 << 20;
const put = async () =>
  (await place(tensor("float32", [SIZE / 4], new Float32Array(SIZE / 4))))?.offset ?? -1;

test("the place of constants that nobody holds any more is used again", async () => {
  const offsets = new Set<number>();
  for (let round = 0; round < 20; round++) {
    offsets.add(await put());
    collectGarbage();
    // Garbage is reported in a task of its own.
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(offsets.size).toBeLessThan(10);
});

test("constants that are held keep their places, of their own", async () => {
  const held = Array.from({ length: 4 }, (_, at) =>
    tensor("float32", [SIZE / 4], new Float32Array(SIZE / 4).fill(at)),
  );
  const places = await Promise.all(held.map(place));
  collectGarbage();
  await new Promise((resolve) => setTimeout(resolve, 5));
  const other = await put();
  const offsets = [...places.map((found) => found?.offset ?? -1), other].sort((a, b) => a - b);
  for (const [at, offset] of offsets.slice(1).entries())
    expect(offset - (offsets[at] ?? 0)).toBeGreaterThanOrEqual(SIZE);
  expect(await place(held[2] as (typeof held)[0])).toEqual(places[2]);
});
