import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { input, makeGraph, ops } from "../../graph/index.js";
import { evaluate } from "../../runtime/index.js";
import { rng } from "../../runtime/random/index.js";
import { tensor } from "../../tensor/index.js";
import { fourierft, type SharedInitContext, type SiteShape } from "../index.js";
import { spectrumPositions } from "./positions.js";

const numbers = (key: string, count: number) => {
  const data = new Float32Array(count);
  rng(3, key).fillNormal(data, 0, 1);
  return data;
};
const sizes = [
  [7, 10],
  [8, 9],
  [6, 6],
  [5, 7],
  [2, 1],
] as const;
/** One entry is transformed by its own wave; all of them by the waves of every frequency. */
const cases = sizes.flatMap(([rows, columns]) => [
  [rows, columns, 1] as const,
  [rows, columns, rows * columns] as const,
]);

test.each(cases)(
  "%i x %i with %i entries: update and gradient are the formula's",
  async (rows, columns, count) => {
    const site: SiteShape = {
      ...{ path: "map", kind: "linear", inFeatures: columns, outFeatures: rows, hasBias: false },
    };
    const { method, config } = fourierft({ frequencies: count });
    const once = <T>(_: string, compute: () => Promise<T>) => compute();
    const context = { sites: [site], once } as unknown as SharedInitContext;
    const shared = await Promise.all(
      Object.entries(method.shared?.([site], config) ?? {}).map(async ([key, { shape, dtype, init }]) => {
        const data = (await init(context)) as Float32Array | Int32Array;
        return [key, tensor(dtype ?? "float32", shape, data)] as const;
      }),
    );
    expect(shared.some(([key]) => key.startsWith("fourierft_cos"))).toBe(8 * count > rows + columns);

    const entries = input("fourierft_spectrum", "float32", [count]);
    const [weight, seen] = ["weight", "seen"].map((key) => input(key, "float32", [rows, columns])) as [
      typeof entries,
      typeof entries,
    ];
    const frozen = Object.fromEntries(
      shared.map(([key, { dtype, shape }]) => [key, input(key, dtype, shape)]),
    );
    const changed = method.weight?.(weight, { fourierft_spectrum: entries, ...frozen }, site, config);
    if (!changed) throw new Error("no weight");
    const [slope] = gradients(ops.reduceSum(ops.mul(changed, seen), undefined, false), [entries]);
    const graph = makeGraph(
      "fourierft",
      [entries, weight, seen, ...Object.values(frozen)],
      [
        ["changed", changed],
        ["slope", slope as typeof entries],
      ],
    );
    const [spectrum, base, cotangent] = [
      numbers("spectrum", count),
      numbers("weight", rows * columns),
      numbers("seen", rows * columns),
    ];
    const results = await evaluate(graph, {
      ...Object.fromEntries(shared),
      fourierft_spectrum: tensor("float32", [count], spectrum),
      weight: tensor("float32", [rows, columns], base),
      seen: tensor("float32", [rows, columns], cotangent),
    });

    const wave = ([u, v]: readonly [number, number], at: number) =>
      (150 / (rows * columns)) *
      Math.cos(2 * Math.PI * ((u * Math.floor(at / columns)) / rows + (v * (at % columns)) / columns));
    const places = spectrumPositions(site, config);
    const expected = base.map((value, at) =>
      places.reduce((sum, place, k) => sum + (spectrum[k] as number) * wave(place, at), value),
    );
    const slopes = places.map((place) =>
      cotangent.reduce((sum, value, at) => sum + value * wave(place, at), 0),
    );
    const gap = (found: unknown, wanted: ArrayLike<number>) =>
      Math.max(...Array.from(found as Float32Array, (value, at) => Math.abs(value - (wanted[at] as number))));
    const scale = 150 / Math.sqrt(rows * columns);
    expect(gap(results.changed?.data, expected) / scale).toBeLessThan(1e-5);
    expect(gap(results.slope?.data, slopes) / scale).toBeLessThan(1e-5);
  },
);
