import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { openNpz } from "../tensor/formats/index.js";
import {
  decodeImage,
  decodeWav,
  loadDataset,
  openArchive,
  openMedia,
  type Row,
  readIdx,
  readRecords,
  readSeries,
} from "./index.js";

const DATA = `${process.env.TUNESMITH_ASSETS ?? "../shared/assets"}/data`;

// Needs the real data sets (TUNESMITH_ASSETS); skipped where they are not.
const real = test.skipIf(!existsSync(DATA));

real("rows of the published data sets are found by their fields", async () => {
  const read = async (name: string) => {
    // TREC was written before UTF-8 was usual.
    const encoding = name.startsWith("trec") ? "latin1" : "utf-8";
    const { layout, rows, report, guess } = await loadDataset(`${DATA}/${name}`, { encoding });
    return {
      layout,
      rows: rows.length,
      dropped: report.dropped.length,
      sure: guess?.confidence,
      first: rows[0],
    };
  };
  const expected: Record<string, [layout: string, rows: number, sure?: number]> = {
    "chat/alpaca_en_demo.json": ["alpaca", 999, 1],
    "chat/dpo_en_demo.json": ["preference", 300, 1],
    "chat/kto_en_demo.json": ["feedback", 300, 1],
    "chat/glaive_toolcall_en_demo.json": ["chat", 300, 1],
    "banking77/train.csv": ["classification", 10003, 0.8],
    "banking77/test.csv": ["classification", 3080, 0.8],
    "gsm8k/train.jsonl": ["completion", 7473, 0.8],
    "e2e/devset.csv": ["completion", 4672, 0.8],
    "trec/train.txt": ["classification", 5452, 1],
    "sst2/train.txt": ["classification", 6920, 1],
    "sst2/dev.txt": ["classification", 872, 1],
    "ud-wolof/train.conllu": ["tags", 1188, 0.8],
    "text/wikitext2-test.txt": ["text", 1, undefined],
  };
  for (const [name, [layout, rows, sure]] of Object.entries(expected)) {
    const found = await read(name);
    expect({ name, ...found, first: undefined }).toEqual({
      name,
      layout,
      rows,
      dropped: 0,
      sure,
      first: undefined,
    });
    expect(found.first).toBeDefined();
  }
});

real("tools, calls and tags come through", async () => {
  const { rows } = await loadDataset(`${DATA}/chat/glaive_toolcall_en_demo.json`);
  const withTools = rows.filter((row) => row.kind === "chat" && row.tools);
  expect(withTools.length).toBeGreaterThan(100);
  const calls = rows.flatMap((row) => (row.kind === "chat" ? row.messages : [])).filter((m) => m.tool_calls);
  expect(calls.length).toBeGreaterThan(100);
  const wolof = await loadDataset(`${DATA}/ud-wolof/test.conllu`);
  const words = (row: Row | undefined) => (row?.kind === "tags" ? row : undefined);
  expect(words(wolof.rows[0])?.tokens.length).toBe(words(wolof.rows[0])?.tags.length);
});

real("archives of JSON, CSV, PNG, JPEG and WAV files", async () => {
  const snips = await openArchive(`${DATA}/snips/snips.tar`);
  const music = snips.entries.find(({ path }) => path.endsWith("train_PlayMusic_full.json"));
  expect(snips.entries).toHaveLength(14);
  const content = new TextDecoder().decode(await music?.read());
  expect(JSON.parse(content).PlayMusic.length).toBeGreaterThan(1900);
  await snips.close();
  const omop = await openArchive(`${DATA}/omop/Synthea27Nj_5.4.zip`);
  expect(omop.entries.length).toBeGreaterThan(10);
  const [table] = omop.entries;
  expect((await table?.read())?.length).toBe(table?.size);
  await omop.close();

  const cifar = await openMedia(`${DATA}/cifar10/test.tar`);
  expect(cifar).toMatchObject({ kind: "image", dropped: [] });
  expect(cifar.rows).toHaveLength(10000);
  expect(cifar.labels.slice(0, 3)).toEqual(["airplane", "automobile", "bird"]);
  const picture = decodeImage((await cifar.rows[0]?.file.read()) ?? new Uint8Array(0));
  expect(picture).toMatchObject({ width: 32, height: 32, channels: 3 });
  await cifar.close();

  const omniglot = await openMedia(`${DATA}/omniglot/images_background_small1.zip`);
  expect(omniglot.rows.length).toBeGreaterThan(1000);
  const sign = decodeImage((await omniglot.rows[0]?.file.read()) ?? new Uint8Array(0));
  expect(sign).toMatchObject({ width: 105, height: 105 });
  await omniglot.close();

  const digits = await openMedia(`${DATA}/spoken-digits/recordings.tar`);
  expect(digits.labels).toEqual("0123456789".split(""));
  expect(digits.rows).toHaveLength(600);
  const sound = decodeWav((await digits.rows[0]?.file.read()) ?? new Uint8Array(0));
  expect(sound).toMatchObject({ sampleRate: 8000 });
  await digits.close();
});

real("MNIST, a time series, a table without names", async () => {
  const images = await readIdx(`${DATA}/mnist/t10k-images-idx3-ubyte.gz`);
  const labels = await readIdx(`${DATA}/mnist/t10k-labels-idx1-ubyte.gz`);
  expect([images.shape, labels.shape]).toEqual([[10000, 28, 28], [10000]]);
  expect([...labels.data.slice(0, 5)]).toEqual([7, 2, 1, 0, 4]);
  const ett = await readSeries(`${DATA}/ett/ETTh1.csv`);
  expect(ett.values.shape).toEqual([17420, 7]);
  expect(ett.channels.at(-1)).toBe("OT");
  expect(ett.times[0]).toBe("2016-07-01 00:00:00");
  const keypoints = await readSeries(`${DATA}/hand-keypoints/keypoint.csv`);
  expect(keypoints.values.shape[1]).toBe(43);
});

real("rollouts of arrays", async () => {
  const file = await openNpz(`${DATA}/cartpole/expert-rollouts.npz`);
  expect(file.tensors.size).toBeGreaterThan(1);
  await file.close();
});

real("JSON facts are records without a known layout", async () => {
  const batches = [];
  for await (const batch of readRecords(`${DATA}/counterfact/counterfact-edit.json`, "json"))
    batches.push(...batch);
  expect(batches.length).toBeGreaterThan(1000);
  const facts = await loadDataset(`${DATA}/counterfact/counterfact-edit.json`, {
    fields: { prompt: "prompt", completion: "target_new" },
  });
  expect(facts.layout).toBe("completion");
});
