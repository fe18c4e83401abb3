import { ops, type Value } from "../src/graph/index.js";
import { type Adaptation, callMethod, type SiteConfig } from "../src/methods/index.js";
import { createSession } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { gap, normals, outputsOf, type PlantedMap } from "./planted-maps.js";
import { graphOf, liveFeeds, mapInputs, type PlantedSites, read, valuesOf } from "./planted-sites.js";
import type { Check } from "./proof.js";

export interface Computed {
  /** What the method's forward pass gives, `[tokens, out]`. */
  readonly forward: Float32Array;
  /** What the merged weight and bias give. */
  readonly merged: Float32Array;
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
}

/** What a method computes at one map for inputs `x` `[tokens, in]`; the same graph serves until `close`. */
export async function computer<C extends SiteConfig>(
  { method, config }: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  index = 0,
) {
  const [given] = mapInputs([map], () => "tokens");
  const site = live.sites[index];
  if (!given || !site) throw new Error("no such map");
  const tensors = valuesOf(live, site);
  const [w, b] = [given.weight.value, given.bias?.value];
  const y = callMethod(method, config, { site: site.shape, tensors, x: given.x, weight: w, bias: b });
  const weight = method.weight(w, tensors, site.shape, config);
  const delta = method.biasDelta?.(tensors, site.shape, config, b, () => w);
  const bias = delta && b ? ops.add(b, delta) : (delta ?? b);
  const outputs: [string, Value][] = [
    ["forward", y],
    ["merged", ops.gemm(given.x, weight, bias, { transB: true })],
    ["weight", ops.add(weight, 0)],
    ...(bias ? [["bias", ops.add(bias, 0)] as [string, Value]] : []),
  ];
  const all = (x: Float32Array): Record<string, Tensor> => ({
    ...liveFeeds({ sites: [site], shared: live.shared }),
    ...Object.fromEntries([given.weight.feed, ...(given.bias ? [given.bias.feed] : [])]),
    [`${map.path}/x`]: tensor("float32", [x.length / map.in, map.in], x),
  });
  const graph = graphOf("compute", outputs);
  const session = await createSession(graph, { threads: 1 });
  return {
    close: () => session.release(),
    async run(x: Float32Array): Promise<Computed> {
      const found = await session.run(read(graph, all(x)));
      const numbers = (name: string) => found[name]?.data as Float32Array;
      return {
        forward: numbers("forward"),
        merged: numbers("merged"),
        weight: numbers("weight"),
        bias: bias && numbers("bias"),
      };
    },
  };
}

/** As `computer`, once. */
export async function compute<C extends SiteConfig>(
  adaptation: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  x: Float32Array,
  index = 0,
): Promise<Computed> {
  const { run, close } = await computer(adaptation, map, live, index);
  try {
    return await run(x);
  } finally {
    await close();
  }
}

/** Largest differences of a method's weight, and of its forward pass, from a weight and bias in plain arithmetic. */
export async function agreement<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  expected: { readonly weight: Float32Array; readonly bias?: Float32Array | undefined },
): Promise<Check[]> {
  const x = normals(5 * map.in, "agreement", map.path);
  const found = await compute(adaptation, map, live, x);
  const { bias = map.bias } = expected;
  const wanted = outputsOf(
    { ...map, target: expected.weight, ...(bias ? { bias, targetBias: bias } : {}) },
    x,
  );
  const check = (what: string, measured: number): Check => ({ what, measured, expected: 0, tolerance: 1e-4 });
  return [
    check(
      `${label}: merged weight against the formula`,
      Math.max(gap(found.weight, expected.weight), gap(found.merged, wanted)),
    ),
    check(`${label}: forward pass against the formula`, gap(found.forward, wanted)),
  ];
}
