import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import type { PeftTensors } from "../../src/methods/formats/index.js";
import { fromPeft, type LoraModule } from "../../src/methods/formats/parts.js";
import { rng } from "../../src/runtime/index.js";
import { loadAll, openSafetensors, type Tensor, tensor, toFloat32 } from "../../src/tensor/index.js";

/** Path of a fixture of these formats. */
export const fixture = (name: string) =>
  fileURLToPath(new URL(`../../fixtures/adapter-formats/${name}`, import.meta.url));
export const json = (name: string) => JSON.parse(readFileSync(fixture(name), "utf8"));
/** Names that the other tools give to modules. */
export const names = json("names.json") as {
  kohya: Record<string, string[]>;
  diffusers: Record<string, string>;
  gguf: Record<string, Record<string, string>>;
};
/** All tensors of a fixture. */
export const tensorsOf = async (name: string) =>
  loadAll({ tensors: (await openSafetensors(fixture(name))).entries });

const random = rng(3);
/** Standard normal numbers of a shape. */
export const normal = (...shape: number[]) => {
  const count = shape.reduce((product, length) => product * length, 1);
  return tensor(
    "float32",
    shape,
    Float32Array.from({ length: count }, () => random.normal()),
  );
};
/** Before the paths in PEFT's files. */
export const PREFIX = "base_model.model.";

/** scale·B·A of a matrix or embedding; the change of an embedding is its transpose. */
export function deltaOf({ a, b, scale, embedding }: LoraModule): number[] {
  const [rank = 0, columns = 0] = a.shape;
  const rows = b.shape[0] ?? 0;
  const [left, right] = [toFloat32(b), toFloat32(a)];
  const out: number[] = [];
  for (let i = 0; i < rows * columns; i++) {
    const [row, column] = embedding
      ? [i % rows, Math.floor(i / rows)]
      : [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += Number(left[row * rank + k]) * Number(right[k * columns + column]);
    out.push(scale * sum);
  }
  return out;
}

/** The change of every module. */
export const deltas = (adapter: PeftTensors): Map<string, number[]> =>
  new Map(fromPeft(adapter).modules.map((module) => [module.path, deltaOf(module)]));

/** Within 1e-5 of the largest. */
export function expectClose(
  found: readonly number[] | undefined,
  wanted: ArrayLike<number>,
  name = "",
): void {
  const largest = Math.max(...Array.from(wanted, Math.abs), 1e-30);
  const worst = Math.max(...Array.from(wanted, (value, i) => Math.abs(value - (found?.[i] ?? Number.NaN))));
  expect([name, found?.length, worst < 1e-5 * largest]).toEqual([name, wanted.length, true]);
}

/** Two adapters that change a model alike. */
export function expectSameDeltas(found: PeftTensors, wanted: PeftTensors): void {
  const [a, b] = [deltas(found), deltas(wanted)];
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  for (const [path, values] of b) expectClose(a.get(path), values, path);
}

/** An adapter whose ranks and scales differ between modules. */
export function sample(paths: readonly string[], config: Record<string, unknown> = {}): PeftTensors {
  const tensors = new Map<string, Tensor>();
  const rank_pattern: Record<string, number> = {};
  paths.forEach((path, index) => {
    const rank = 2 + (index % 2);
    if (rank !== 2) rank_pattern[path] = rank;
    tensors.set(`${PREFIX}${path}.lora_A.weight`, normal(rank, 8));
    tensors.set(`${PREFIX}${path}.lora_B.weight`, normal(8, rank));
  });
  return {
    tensors,
    config: {
      peft_type: "LORA",
      r: 2,
      lora_alpha: 3,
      rank_pattern,
      alpha_pattern: { [String(paths[0])]: 5 },
      ...config,
    },
  };
}
