import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { nextToken } from "../../training/index.js";
import type { Adapted } from "../adapted.js";
import { adapt, calibrate, loadAdapter, lora, saveAdapter } from "../index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";
import fixture from "./eva.fixture.json" with { type: "json" };

const TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"];

/** The model, and statistics of the reference's data. */
async function start() {
  const base = await baseModel("llama");
  const length = fixture.ids[0]?.length ?? 0;
  const examples = fixture.ids.map((row) => ({
    ids: Int32Array.from(row),
    lossMask: new Uint8Array(length).fill(1),
  }));
  const train = packExamples(examples, { length, strategy: "none" });
  const objective = nextToken(base, { train, batchSize: examples.length, lengths: [length], padId: 0 });
  const calibration = await calibrate(objective, { statistics: ["covariance", "inputMean"], batches: 1 });
  return { base, calibration };
}

const tensorOf = (model: Adapted, path: string) => {
  const found = model.adapters.get("default")?.sites.get(path)?.tensors.lora_A?.tensor;
  if (!found) throw new Error(`no lora_A at ${path}`);
  return { rank: Number(found.shape[0]), a: found.data as Float32Array };
};

/** Cosine of row k of two matrices of `columns`. */
function cosine(a: ArrayLike<number>, b: ArrayLike<number>, k: number, columns: number): number {
  let [dot, left, right] = [0, 0, 0];
  for (let at = k * columns; at < (k + 1) * columns; at++) {
    dot += Number(a[at]) * Number(b[at]);
    left += Number(a[at]) ** 2;
    right += Number(b[at]) ** 2;
  }
  return dot / Math.sqrt(left * right);
}

test.each(fixture.cases.map((each) => [each.rank, each.rho, each] as const))(
  "rank %d, rho %d: ranks, scales and directions are PEFT's",
  async (rank, rho, expected) => {
    const { base, calibration } = await start();
    const { adjustScaling, whiten } = expected;
    const eva = { rho, adjustScaling, whiten };
    const options = { rank, alpha: fixture.alpha, init: "eva", eva, targets: TARGETS };
    const model = await adapt(base, lora(options), { calibration });
    const adapter = model.adapters.get("default");
    const sites = Object.entries(expected.sites).filter(([, site]) => site.rank > 0);
    expect([...(adapter?.sites.keys() ?? [])].sort()).toEqual(sites.map(([path]) => path).sort());
    expect(adapter?.adaptation.config).toMatchObject({
      rankPattern: expected.rankPattern,
      alphaPattern: expected.alphaPattern,
    });
    for (const [path, { rank: wanted, a }] of sites) {
      const found = tensorOf(model, path);
      expect(found.rank, path).toBe(wanted);
      const columns = a.length / wanted;
      const lengths: number[] = [];
      for (let k = 0; k < wanted; k++) {
        expect(Math.abs(cosine(found.a, a, k, columns)), `${path} ${k}`).toBeGreaterThan(0.999);
        const row = (data: ArrayLike<number>) =>
          Math.hypot(...Array.from(data).slice(k * columns, (k + 1) * columns));
        lengths.push(row(found.a) / row(a));
      }
      // The reference divides in place what sites with the same input share, so it whitens queries, keys and values three times.
      if (whiten && /[qkv]_proj$/.test(path)) continue;
      // It has seen its batch several times, which whitening counts: lengths agree up to one factor.
      const [first = 0] = lengths;
      expect(lengths, path).toEqual(lengths.map(() => expect.closeTo(first, 3)));
      expect(whiten ? first > 1 : Math.abs(first - 1) < 1e-3, path).toBe(true);
    }
    expect(relativeDifference(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-5);
  },
);

test("a module without rank is not adapted; saved as PEFT's patterns, it loads again", async () => {
  const { base, calibration } = await start();
  const options = { rank: 1, alpha: 8, init: "eva", eva: { rho: 6 }, targets: TARGETS };
  const model = randomise(await adapt(base, lora(options), { calibration }));
  const left = fixture.cases.find(({ rank }) => rank === 1)?.sites ?? {};
  expect(model.adapters.get("default")?.sites.size).toBe(Object.keys(left).length);
  expect(Object.keys(left).length).toBeLessThan(10);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-eva-"));
  await saveAdapter(model, folder);
  const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ init_lora_weights: true, r: 1, lora_alpha: 8 });
  expect(Object.keys(config.rank_pattern).length).toBeGreaterThan(0);
  const loaded = await loadAdapter(base, folder);
  expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBeLessThan(1e-5);
});

test("ranks to share out need the start that they are of", async () => {
  const { base, calibration } = await start();
  const given = lora({ rank: 2, init: "default", eva: {}, targets: TARGETS });
  await expect(adapt(base, given, { calibration })).rejects.toThrow(/eva.*does nothing/);
});
