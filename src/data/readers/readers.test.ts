import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { zipSync } from "fflate";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  loadDataset,
  openArchive,
  openMedia,
  openRows,
  readIdx,
  readRecords,
  readSeries,
  seriesWindows,
} from "../index.js";
import type { RecordFormat, RecordOptions } from "./records.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tunesmith-readers-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function put(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

async function records(path: string, format: RecordFormat, options?: RecordOptions) {
  const all = [];
  for await (const batch of readRecords(path, format, options)) all.push(...batch);
  return all;
}

const PNG = JSON.parse(await readFile("fixtures/data/media.json", "utf8")).png[0].file as string;
const png = new Uint8Array(Buffer.from(PNG, "base64"));

test("JSONL: packed, longer than a piece, lenient, another encoding", async () => {
  const rows = Array.from({ length: 30_000 }, (_, index) =>
    JSON.stringify({ text: `row ${index} ☃ ${"x".repeat(60)}` }),
  );
  const packed = await records(await put("a.jsonl.gz", gzipSync(rows.join("\n"))), "jsonl");
  expect(packed).toHaveLength(30_000);
  expect(packed[29_999]).toMatchObject({
    row: 30_000,
    value: { text: expect.stringContaining("row 29999 ☃") },
  });
  const dataset = await loadDataset(join(folder, "a.jsonl.gz"));
  expect(dataset).toMatchObject({ layout: "text", report: { rows: 30_000 } });
  const broken = await put("b.jsonl", '{"text":"a"}\n{oh\n{"text":"b"}\n');
  await expect(records(broken, "jsonl")).rejects.toThrow(/b\.jsonl:2: not JSON/);
  expect(await records(broken, "jsonl", { lenient: true })).toMatchObject([
    { row: 1 },
    { row: 2, problem: "not JSON" },
    {},
  ]);
  const lenient = await loadDataset(broken, { lenient: true });
  expect(lenient.report).toMatchObject({ rows: 2, dropped: [{ row: 2, reason: "not JSON" }] });
  const latin = await put("c.jsonl", Buffer.from('{"text":"caf\xe9"}', "latin1"));
  await expect(records(latin, "jsonl")).rejects.toThrow(/encoding/);
  expect(await records(latin, "jsonl", { encoding: "latin1" })).toMatchObject([{ value: { text: "café" } }]);
  const cut = await put("d.jsonl.gz", gzipSync(rows.join("\n")).subarray(0, 500));
  await expect(records(cut, "jsonl")).rejects.toMatchObject({ code: "file-corrupt" });
});

test("CSV: quoted line ends across pieces, rows of other widths", async () => {
  const lines = Array.from({ length: 20_000 }, (_, index) => `"a, ""b""\nline ${index}",${"y".repeat(80)}`);
  const rows = await records(await put("a.csv", `text,other\n${lines.join("\n")}\n`), "csv");
  expect(rows).toHaveLength(20_000);
  expect(rows[19_999]).toMatchObject({ row: 20_000, value: { text: 'a, "b"\nline 19999' } });
  await expect(records(await put("b.csv", "a,b\n1,2\n1\n"), "csv")).rejects.toThrow(/b\.csv:3/);
  await expect(records(await put("c.csv", 'a,b\n1,"2\n'), "csv")).rejects.toMatchObject({
    code: "data-invalid",
  });
});

test("Parquet: three codecs, row groups, images inside", async () => {
  for (const codec of ["snappy", "zstd", "gzip"]) {
    const dataset = await loadDataset(`fixtures/data/text-${codec}.parquet`);
    expect(dataset).toMatchObject({ layout: "classification", report: { rows: 50 } });
    expect(dataset.rows[40]).toEqual({ kind: "classification", text: "row 40 ☃", label: 1 });
  }
  const images = await loadDataset("fixtures/data/images.parquet");
  expect(images.layout).toBe("image");
  const [first] = images.rows;
  if (first?.kind !== "image") throw new Error("these rows are images");
  expect(first.label).toBe(4);
  expect(await first.file.read()).toEqual(png);
  const damaged = await put(
    "x.parquet",
    (await readFile("fixtures/data/text-zstd.parquet")).subarray(0, 900),
  );
  await expect(loadDataset(damaged)).rejects.toMatchObject({ code: "file-corrupt" });
});

test("CoNLL-U and columns", async () => {
  const line = (id: string, word: string, tag: string) => `${id}\t${word}\t_\t${tag}\tx\t_\t_\t_\t_\t_`;
  const path = await put(
    "a.conllu",
    `# text = du\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n${line("1", "de", "ADP")}\n${line("2", "le", "DET")}\n\n# next\n${line("1", "oui", "INTJ")}\n`,
  );
  const { layout, rows } = await loadDataset(path);
  expect(layout).toBe("tags");
  expect(rows).toEqual([
    { kind: "tags", tokens: ["de", "le"], tags: ["ADP", "DET"] },
    { kind: "tags", tokens: ["oui"], tags: ["INTJ"] },
  ]);
  const xpos = await loadDataset(path, { fields: { tags: "xpos" } });
  expect(xpos.rows[1]).toMatchObject({ tags: ["x"] });
  const plain = await loadDataset(
    await put("b.conll", "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"),
  );
  expect(plain.rows).toEqual([{ kind: "tags", tokens: ["EU", "rejects"], tags: ["B-ORG", "O"] }]);
  const uneven = await records(await put("c.conll", "a b c\nd e\n\n"), "conll");
  expect(uneven).toMatchObject([{ problem: expect.stringContaining("columns") }]);
});

test("a class and a text per line; prose stays prose", async () => {
  const { layout, rows } = await loadDataset(await put("a.txt", "1 good film\n0 bad film\n1 fine\n0 dull\n"));
  expect(layout).toBe("classification");
  expect(rows[1]).toEqual({ kind: "classification", text: "bad film", label: 0 });
  const fast = await loadDataset(
    await put("b.txt", "__label__x a\n__label__y b\n__label__x c\n__label__y d\n"),
  );
  expect(fast.rows[0]).toMatchObject({ label: "x" });
  const prose = await loadDataset(await put("c.txt", "1 is a number\nand this is not\n2 is one\n3 is\n"));
  expect(prose.layout).toBe("text");
  const asText = await loadDataset(join(folder, "a.txt"), { format: "text" });
  expect(asText.layout).toBe("text");
});

test("zip and tar: entries at random, damage, long names", async () => {
  const zip = zipSync({
    "cat/1.png": png,
    "dog/2.png": [png, { level: 0 }],
    "__MACOSX/._1.png": png.slice(0, 5),
  });
  const media = await openMedia(await put("a.zip", zip));
  expect(media).toMatchObject({ kind: "image", labels: ["cat", "dog"], dropped: [] });
  for (const { file } of media.rows) expect(await file.read()).toEqual(png);
  await media.close();
  const name = `${"deep/".repeat(30)}3_jackson_12.wav`;
  const tar = await openArchive(
    await put(
      "a.tar",
      tarOf([
        [name, Uint8Array.of(1, 2)],
        ["x/0_lucas_1.wav", Uint8Array.of(3)],
      ]),
    ),
  );
  expect(tar.entries.map(({ path }) => path)).toEqual([name, "x/0_lucas_1.wav"]);
  expect(await tar.entries[0]?.read()).toEqual(Uint8Array.of(1, 2));
  await tar.close();
  const digits = await openMedia(join(folder, "a.tar"), { labelFrom: "name" });
  expect(digits.labels).toEqual(["0", "3"]);
  await digits.close();
  await expect(openArchive(await put("b.tar", "no archive at all".repeat(100)))).rejects.toMatchObject({
    code: "format-unsupported",
  });
  await expect(openArchive(await put("b.zip", zip.slice(0, 200)))).rejects.toMatchObject({
    code: "file-corrupt",
  });
  const lying = zip.slice();
  const view = new DataView(lying.buffer);
  const directory = view.getUint32(lying.length - 6, true);
  view.setUint32(directory + 24, 900_000_000, true);
  await expect(openArchive(await put("c.zip", lying))).rejects.toMatchObject({ code: "file-corrupt" });
  await expect(openMedia(await put("d.zip", zipSync({ "a.txt": png })))).rejects.toMatchObject({
    code: "data-empty",
  });
});

/** A tar archive with GNU's long names. */
function tarOf(files: readonly (readonly [string, Uint8Array])[]): Uint8Array {
  const blocks: Uint8Array[] = [];
  const add = (name: string, type: string, content: Uint8Array) => {
    const head = new Uint8Array(512);
    const put = (at: number, text: string) => head.set(new TextEncoder().encode(text), at);
    put(0, name.slice(0, 99));
    put(124, content.length.toString(8).padStart(11, "0"));
    put(156, type);
    put(148, "        ");
    put(
      148,
      head
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, "0"),
    );
    head[154] = 0;
    const body = new Uint8Array(Math.ceil(content.length / 512) * 512);
    body.set(content);
    blocks.push(head, body);
  };
  for (const [name, content] of files) {
    if (name.length > 99) add("././@LongLink", "L", new TextEncoder().encode(name));
    add(name, "0", content);
  }
  return new Uint8Array(Buffer.concat([...blocks, new Uint8Array(1024)]));
}

test("IDX: big-endian numbers, packed, damaged", async () => {
  const header = [0, 0, 12, 2, 0, 0, 0, 1, 0, 0, 0, 2];
  const path = await put("a.idx.gz", gzipSync(Uint8Array.of(...header, 0, 0, 1, 0, 255, 255, 255, 254)));
  const { dtype, shape, data } = await readIdx(path);
  expect({ dtype, shape, data }).toEqual({ dtype: "int32", shape: [1, 2], data: Int32Array.of(256, -2) });
  const short = await put("b.idx", Uint8Array.of(...header, 0, 0));
  await expect(readIdx(short)).rejects.toThrow(/header says \[1, 2\]/);
  await expect(readIdx(await put("c.idx", "none"))).rejects.toMatchObject({ code: "file-corrupt" });
});

test("series: names, times, gaps, windows", async () => {
  const { channels, times, values } = await readSeries(
    await put("s.csv", "date,a,b\n2020-01-01,1,2\n2020-01-02,3,\n2020-01-03,5,6\n"),
  );
  expect({ channels, times, shape: values.shape }).toEqual({
    channels: ["a", "b"],
    times: ["2020-01-01", "2020-01-02", "2020-01-03"],
    shape: [3, 2],
  });
  expect([...(values.data as Float32Array)]).toEqual([1, 2, 3, Number.NaN, 5, 6]);
  const bare = await readSeries(await put("t.csv", "0,1.5\n1,2.5\n"));
  expect(bare).toMatchObject({ channels: ["c0", "c1"], times: [] });
  const windows = [...seriesWindows(values, { past: 1, future: 1, stride: 1 })];
  expect(windows.map(({ past, future }) => [past.data[0], future.data[0]])).toEqual([
    [1, 3],
    [3, 5],
  ]);
  expect([...seriesWindows(values, { past: 3, future: 1 })]).toEqual([]);
  await expect(readSeries(await put("u.csv", "a,b\n1,2\n3,x\n"))).rejects.toThrow(/u\.csv:3: column 2: 'x'/);
  await expect(readSeries(await put("v.csv", "a,b\n"))).rejects.toMatchObject({ code: "data-empty" });
  expect(() => [...seriesWindows(values, { past: 0, future: 1 })]).toThrow(/not possible/);
});

test("a folder of parts is one dataset; rows are read again on every call", async () => {
  const shards = await mkdtemp(join(folder, "shards-"));
  await writeFile(join(shards, "0.jsonl"), '{"text":"a"}\n{"text":""}\n');
  await writeFile(join(shards, "1.jsonl"), '{"text":"b"}\n');
  await writeFile(join(shards, "README.md"), "about");
  const stream = await openRows(shards);
  if (!stream) throw new Error("this is a dataset");
  for (let pass = 0; pass < 2; pass++) {
    const [rows, dropped] = [[], []] as [unknown[], unknown[]];
    for await (const batch of stream.batches()) {
      rows.push(...batch.rows);
      dropped.push(...batch.dropped);
    }
    expect(rows).toMatchObject([{ row: "0.jsonl:1" }, { row: "1.jsonl:1" }]);
    expect(dropped).toEqual([{ row: "0.jsonl:2", reason: "field 'text' is empty" }]);
  }
});
