import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { input, makeGraph } from "../../graph/index.js";
import { inputsOf } from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { identity } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import {
  type Adaptation,
  adapt,
  boft,
  callMethod,
  hra,
  loadAdapter,
  oft,
  type SiteConfig,
  type SiteShape,
  saveAdapter,
} from "../index.js";
import { baseModel, probeLogits, product, randomise, relativeDifference } from "../testing/fixtures.js";

const [WIDTH, BLOCK] = [16, 4];
const site: SiteShape = {
  path: "map",
  kind: "linear",
  inFeatures: WIDTH,
  outFeatures: WIDTH,
  hasBias: false,
};

/** What a method makes of the identity, with random numbers in its tensors and its noise. */
async function turned<C extends SiteConfig>({ method, config }: Adaptation<C>, training: boolean, seed = 1) {
  const specs = Object.entries(method.tensors(site, config));
  const tensors = Object.fromEntries(specs.map(([key, { shape }]) => [key, input(key, "float32", shape)]));
  const [x, weight] = [input("x", "float32", [WIDTH, WIDTH]), input("w", "float32", [WIDTH, WIDTH])];
  const y = callMethod(method, config, { site, tensors, x, weight, training });
  const one = tensor("float32", [WIDTH, WIDTH], Float32Array.from(identity(WIDTH).data));
  const feeds: Record<string, Tensor> = {};
  for (const value of inputsOf([y])) {
    const name = String(value.name);
    const shape = value.shape as number[];
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const random = rng(name.startsWith("noise") ? seed : 9, name);
    if (name.startsWith("noise")) random.fillUniform(data);
    else if (name === "boft_s") data.fill(1);
    else random.fillNormal(data, 0, 0.3);
    feeds[name] = name === "x" || name === "w" ? one : tensor("float32", shape, data);
  }
  return (await evaluate(makeGraph("map", inputsOf([y]), [["y", y]]), feeds)).y?.data as Float32Array;
}

/** Blocks on the diagonal that are the identity. */
const untouched = (matrix: Float32Array): number[] =>
  Array.from({ length: WIDTH / BLOCK }, (_, block) => block).filter((block) =>
    Array.from({ length: BLOCK * BLOCK }, (_, at) => {
      const [i, j] = [Math.floor(at / BLOCK), at % BLOCK];
      const value = matrix[(block * BLOCK + i) * WIDTH + block * BLOCK + j] as number;
      return Math.abs(value - (i === j ? 1 : 0)) < 1e-6;
    }).every(Boolean),
  );

describe("multiplicative dropout", () => {
  test.each([
    ["boft", boft({ blockSize: BLOCK, dropout: 0.5 })],
    ["oft", oft({ blockSize: BLOCK, dropout: 0.6, neumann: false })],
  ] as const)(
    "%s leaves half of four blocks out, others at each step, and none afterwards",
    async (_, adaptation) => {
      const chosen = new Set<string>();
      for (const seed of [1, 2, 3, 4, 5, 6]) {
        const left = untouched(await turned(adaptation as unknown as Adaptation, true, seed));
        expect(left.length).toBe(2);
        chosen.add(left.join());
      }
      expect(chosen.size).toBeGreaterThan(1);
      expect(untouched(await turned(adaptation as unknown as Adaptation, false))).toEqual([]);
    },
  );

  test("of several factors one is hit, and the product stays orthogonal", async () => {
    const adaptation = boft({ blockSize: BLOCK, factors: 2, dropout: 0.99 });
    const found = await turned(adaptation, true);
    expect(found).not.toEqual(await turned(adaptation, false));
    // Three blocks of one factor are left out; the other one still moves every coordinate.
    expect(untouched(found)).toEqual([]);
    const back = found.map((_, at) => found[(at % WIDTH) * WIDTH + Math.floor(at / WIDTH)] as number);
    product(found, back, [WIDTH, WIDTH, WIDTH]).forEach((value, at) => {
      expect(value).toBeCloseTo(at % (WIDTH + 1) === 0 ? 1 : 0, 5);
    });
  });
});

test("a number of blocks stands for their width", async () => {
  expect(await turned(boft({ blockNum: 4 }), false)).toEqual(await turned(boft({ blockSize: 4 }), false));
  expect(await turned(oft({ blocks: 4 }), false)).toEqual(await turned(oft({ blockSize: 4 }), false));
  for (const wrong of [boft({ blockNum: 5 }), oft({ blocks: 16 })])
    await expect(turned(wrong as unknown as Adaptation, false)).rejects.toMatchObject({
      code: "config-invalid",
    });
});

test("HRA's soft start is nearly the base, and its files say what it is", async () => {
  const base = await baseModel("llama");
  const model = await adapt(base, hra({ rank: 3, init: "soft", targets: ["q_proj"] }));
  const plain = await probeLogits(base);
  expect(relativeDifference(await probeLogits(model), plain)).toBeLessThan(1e-3);
  randomise(model, 1, 0.01);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-hra-"));
  await saveAdapter(model, folder);
  const apart = await probeLogits(model);
  expect(relativeDifference(apart, plain)).toBeGreaterThan(1e-3);
  expect(relativeDifference(await probeLogits(await loadAdapter(base, folder)), apart)).toBeLessThan(1e-6);
});
