import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { expect, test } from "vitest";
import { batches, packExamples } from "../data/index.js";
import { tensor } from "../tensor/index.js";
import { prefixCache } from "./prefix-cache.js";

const [LENGTH, WIDTH, COUNT] = [4, 3, 6];
const ROW_BYTES = LENGTH * WIDTH * 4;
const packs = packExamples(
  Array.from({ length: COUNT }, (_, at) => ({
    ids: Int32Array.from({ length: LENGTH }, (_, k) => 10 * at + k + 1),
    lossMask: new Uint8Array(LENGTH).fill(1),
  })),
  { length: LENGTH, strategy: "none" },
);
const epoch = (index: number) =>
  batches(packs, { batchSize: 2, lengths: [LENGTH], padId: 0, seed: 1, epoch: index });

/** What a prefix graph would say: numbers that follow from the ids. */
function computer() {
  const counter = { runs: 0 };
  const compute = async ({ ids }: Record<string, { data: ArrayLike<unknown> }>) => {
    counter.runs++;
    const values = Array.from(ids?.data ?? [], Number).flatMap((id) => [id, id / 7, -id]);
    return { prefix: tensor("float32", [values.length / WIDTH, WIDTH], values) };
  };
  return { counter, compute };
}

async function runEpochs(budget: { memory: number; disk: number }) {
  const { counter, compute } = computer();
  const cache = prefixCache(budget);
  for (let index = 0; index < 3; index++) {
    for (const batch of epoch(index)) {
      const feeds = { ids: batch.inputIds };
      const expected = (await computer().compute(feeds)).prefix;
      const wanted = { names: batch.packs.map(String), batch: 2, shape: [2 * LENGTH, WIDTH] };
      expect(await cache.rows(wanted, async () => (await compute(feeds)).prefix)).toEqual(expected);
    }
  }
  const { hits, bytes, diskBytes } = cache;
  await cache.close();
  return { runs: counter.runs, hits, bytes, diskBytes };
}

test.each([
  ["memory", { memory: COUNT * ROW_BYTES, disk: 0 }, [COUNT, 0]],
  ["disk", { memory: 0, disk: COUNT * ROW_BYTES }, [0, COUNT]],
  ["memory, then disk", { memory: 2 * ROW_BYTES, disk: 1e6 }, [2, COUNT - 2]],
] as const)("activations kept in %s are what was computed, from epoch 2 on", async (_, budget, rows) => {
  const { runs, hits, bytes, diskBytes } = await runEpochs(budget);
  expect([runs, hits]).toEqual([COUNT / 2, COUNT]);
  expect([bytes / ROW_BYTES, diskBytes / ROW_BYTES]).toEqual(rows);
});

test("rows beyond both budgets are computed again", async () => {
  const { runs, bytes, diskBytes } = await runEpochs({ memory: ROW_BYTES, disk: ROW_BYTES + 1 });
  expect([bytes, diskBytes]).toEqual([ROW_BYTES, ROW_BYTES]);
  expect(runs).toBeGreaterThan(COUNT / 2);
});

test("nothing of the disk tier stays in the temporary folder", async () => {
  const scratch = () => readdirSync(tmpdir()).filter((name) => /^tunesmith-[0-9a-f]{8}-/.test(name));
  const before = new Set(scratch());
  await runEpochs({ memory: 0, disk: 1e6 });
  expect(scratch().filter((name) => !before.has(name))).toEqual([]);
});
