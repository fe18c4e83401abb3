import { expect, test } from "vitest";
import { siteMethods } from "./catalog.js";
import type { SiteShape } from "./method.js";

const linear = (outFeatures: number, inFeatures: number): SiteShape => ({
  path: "model.layers.0.q_proj",
  kind: "linear",
  inFeatures,
  outFeatures,
  hasBias: true,
});

/** Σ s(rk + dr + r + d) + Σ d'(d + 1) + o(d_L + 1) + z(k + 1) + Σ (g(in + 1) + g(g + 1) + sg), of widths d and z features of a token. */
function trees(
  experts: readonly number[],
  ranks: readonly number[],
  widths: readonly number[],
  g: number,
  z: number,
): number {
  const top = experts.length - 1;
  const layers = experts.map((s, l) => {
    const [r, d] = [Number(ranks[l]), Number(widths[l])];
    const carried = l > 0 ? d * (Number(widths[l - 1]) + 1) : 0;
    const seen = z + g * (top - l);
    return s * (r * inn + d * r + r + d) + carried + g * (seen + 1) + g * (g + 1) + s * g;
  });
  return layers.reduce((a, b) => a + b, out * (Number(widths[top]) + 1) + z * (inn + 1));
}

/** Trained numbers at a map of 48 outputs and 32 inputs: method, options, formula with its numbers. */
const [out, inn] = [48, 32];
type Case = readonly [string, Readonly<Record<string, unknown>>, number];
const CASES: readonly Case[] = [
  ["lora", { rank: 4 }, 4 * (inn + out)],
  ["velora", { rank: 4 }, 4 * (inn + out)],
  ["monteclora", { rank: 4, samples: 6 }, 4 * (inn + out) + 4 + 6],
  ["ia3", { feedforward: [] }, out],
  ["ia3", { feedforward: ["q_proj"] }, inn],
  ["adalora", { initRank: 5 }, 5 * (inn + out + 1)],
  ["fourierft", { frequencies: 100 }, 100],
  ["waveft", { frequencies: 100 }, 100],
  ["shira", { rank: 3 }, 3 * (inn + out)],
  ["hira", { rank: 3 }, 3 * (inn + out)],
  ["miss", { rank: 6 }, 6 * out],
  ["miss", { rank: 8, variant: "bat" }, 8 * out],
  ["miss", { rank: 8, variant: "mini", miniRank: 4 }, 8 * 4],
  ["gralora", { rank: 4 }, 4 * (inn + out)],
  ["gralora", { rank: 4, blocks: 4, hybridRank: 2 }, 6 * (inn + out)],
  ["delora", { rank: 4 }, 4 * (inn + out) + 1],
  ["c3a", { blockSize: 16 }, (inn * out) / 16],
  // 48 = 4 · 4 · 3, 32 = 4 · 4 · 2: bonds 16 and 6
  ["mpo", { cores: 3 }, 16 * 16 + 6 * 6],
  ["mpo", { cores: 3, train: "central" }, inn * out],
  ["mpo", { cores: 3, train: "all", truncate: 5 }, 16 * 5 + 5 * 16 * 5 + 5 * 6],
  ["road", { groupSize: 8 }, out],
  ["road", { groupSize: 8, variant: "road_2" }, 2 * out],
  ["road", { groupSize: 8, variant: "road_4" }, 4 * out],
  ["neuroada", { connections: 3 }, 3 * out],
  ["neuroada", { connections: 100 }, inn * out],
  ["vera", { rank: 16 }, 16 + out],
  ["pvera", { rank: 16 }, 2 * 16 + out],
  ["uora", { rank: 16 }, 16 + out],
  ["hydra", { parallelRank: 2, sequentialRank: 3 }, 2 * (inn + out) + 2 * 3 * out],
  ["hydra", { parallelRank: 2, sequentialRank: 0, branchBias: true }, 2 * (inn + out) + 2 + out],
  // 32 rows, 48 = 6 · 8 columns
  ["kradapter", {}, 32 * (6 + 8)],
  ["loldu", {}, inn],
  ["loldu", { rank: 5 }, 5],
  ["lorma", { rank: 4 }, 2 * 4 * out],
  ["lorma", { rank: 4, side: "post", variant: "pi" }, 2 * 4 * inn],
  ["dora-dynamic", { rank: 4 }, 6 * (inn + out + 1)],
  ["elalora", { rank: 4, maxRank: 4 }, 4 * (inn + out + 1)],
  ["map", { inner: "lora", options: { rank: 4 } }, 4 * (inn + out) + 2],
  ["map", { inner: "kradapter" }, 32 * (6 + 8) + 2],
  ["diffora", { rank: 4 }, 4 * (inn + out) + 1],
  ["diffora", { rank: 4, unselected: "shared", selected: ["other"] }, 4 * (inn + out)],
  ["ssmlora", { rank: 4 }, 4 * (inn + out) + 2 * 4 * 4],
  ["smore", { experts: [3, 4], ranks: [2, 3], gateDim: 5, downDim: 6 }, trees([3, 4], [2, 3], [6, 18], 5, 6)],
  ["smore", { experts: [8], ranks: [2], gateDim: 5, downDim: 6 }, trees([8], [2], [16], 5, 6)],
  // Noise of [in] per expert; a slope per sub-layer where the activation acts.
  [
    "smore",
    { experts: [3, 4], ranks: [2, 3], gateDim: 5, downDim: 6, gate: "noisy", activation: "prelu" },
    trees([3, 4], [2, 3], [6, 18], 5, 6) + 3 * (6 + 5) + 4 * 6 + 2,
  ],
  // One pool less.
  [
    "smore",
    { experts: [4, 4], ranks: [2, 2], gateDim: 5, downDim: 6, sharedPool: true },
    trees([4, 4], [2, 2], [8, 8], 5, 6) - 4 * (2 * inn + 8 * 2 + 2 + 8),
  ],
  ["glora", {}, 2 * 4 * (inn + out) + 4 * (inn + 1) + 1 + 1],
  ["glora", { a: "vector", b: "none", c: "vector", d: "vector", e: "vector" }, out + inn + out + out],
  ["glora", { a: "constant", b: "lora-2", ranks: [2, 4], c: "none", d: "none" }, 1 + 2 * (inn + out) + 1],
  ["boft", { blockSize: 4, factors: 2 }, 2 * inn * 4 + out],
  ["boft", { blockNum: 4 }, inn * 8 + out],
  ["oft", { blockSize: 8 }, 4 * 28],
  ["oft", { blocks: 2, blockShare: true }, 120],
  ["hra", { rank: 6 }, 6 * inn],
  ["psoft", { rank: 8 }, 28 + 2 * 8],
  ["psoft", { rank: 8, scaleInputs: false, scaleOutputs: false }, 28],
  ["psoft", { rank: 8, orthogonal: false, scaleInputs: false }, 64 + 8],
  ["goft", {}, inn - 1 + inn],
  ["goft", { scale: false }, inn - 1],
  ["goft", { quasi: true }, 4 * (inn - 1)],
  // 32 = 2 · 4 · 4
  ["soda", {}, inn + 4 + 16 + 16],
  ["soda", { variant: "lq", kron: [1, 4, 8] }, inn + 1 + 16 + 64],
  ["orthogonal-adaptation", { rank: 4, conceptId: "cat" }, 4 * out],
  ["kadaptation", { summands: 8 }, inn + out + 2 * 64 + out],
  ["kadaptation", { summands: 8, rank: 2, ruleRank: 3, ownBias: false }, 2 * (inn + out) + 3 * 2 * 64],
  // ⌈32 / 5⌉ bases
  ["randlora", { rank: 5 }, 7 * (5 + 32)],
  ["vblora", { rank: 4, vectors: 10, vectorLength: 8 }, 10 * 8 + (4 * 10 * (inn + out)) / 8],
  ["fine-gates", {}, inn + 2 * out],
  ["fine-gates", { rank: 2, gateBias: false }, inn + out + 2 * (inn + out)],
  ["alphatuning", {}, out],
  ["alphatuning", { planes: 4, train: "all" }, 4 * out],
  ["sketchtune", { bits: 3, groupsPerRow: 2 }, out * 2 * 8],
  ["peanut", { rank: 4 }, 2 * 4 * out],
  ["peanut", { rank: 4, depth: 2 }, 2 * 4 * out + 4 * 16],
  ["lily", { rank: 4, experts: 3 }, 4 * (inn + 3 * out) + 3 * 4],
  ["poly", { rank: 4, tasks: 5, skills: 3, splits: 2 }, 3 * 4 * (inn + out) + 5 * 2 * 3],
  ["tinylora", { vectorLength: 13, rank: 3 }, 13],
  ["unilora", { thetaLength: 100 }, 100],
  ["supertuning", { sparsity: 0.9 }, 153],
  ["supertuning", { sparsity: 0.9, rank: 2 }, 153 + 2 * (inn + out)],
  ["beft", {}, out],
  ["loha", { rank: 4 }, 2 * 4 * (inn + out)],
  // 48 = 6 · 8, 32 = 4 · 8
  ["lokr", { rank: 2 }, 6 * 4 + 2 * (8 + 8)],
  ["lokr", { rank: 4 }, 6 * 4 + 8 * 8],
  // 32 − 20 directions trained
  ["osf", { keptRank: 20 }, 12 * (inn + out + 1)],
  ["osf", {}, 16 * (inn + out + 1)],
  ["deft-projection", { rank: 5 }, 5 * (inn + out)],
  ["deft-projection", { rank: 5, projection: "qr", removeOnly: true }, 5 * out],
  ["frod", { sparseRate: 0.05 }, inn + 51],
  ["frod", { sparseRate: 1e-6 }, inn + 1],
  ["adamss", { rank: 20, subspaces: 4, subspaceRank: 2 }, 4 * 2 * 20 + 2 * out],
  ["kasa", { rank: 4 }, 4 * (inn + out + 1)],
  ["qalora", { rank: 4, groupSize: 8 }, 4 * (inn / 8 + out)],
  ["alora", { rank: 4, invocation: [1] }, 4 * (inn + out)],
  ["bdlora", { rank: 4 }, 4 * inn + (4 * out) / 2],
  ["bdlora", { rank: 8, blocks: 4, blockA: ["q_proj"], blockB: [] }, (8 * inn) / 4 + 8 * out],
  ["lokr", { rank: 2, decomposeBoth: true }, 2 * (6 + 4) + 2 * (8 + 8)],
];

test.each(CASES)("%s %j trains %i numbers", (name, options, expected) => {
  const method = siteMethods.find((each) => each.name === name);
  if (!method) throw new Error(`no method ${name}`);
  const site = linear(out, inn);
  const config = method.schema.parse(options);
  const specs = [
    ...Object.values(method.tensors(site, config)),
    ...Object.values(method.shared?.([site], config) ?? {}),
  ];
  const counted = specs
    .filter(({ trainable }) => trainable)
    .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  expect(counted).toBe(expected);
});
