import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { type CausalLm, loadModel } from "../../models/index.js";
import { type HarnessResults, type HarnessTask, loadTask, parseTask, runTasks } from "./index.js";
import { rollingWindows } from "./requests.js";
import { docTemplate } from "./templates.js";

const ROOT = new URL("../../../", import.meta.url).pathname;
const FOLDER = `${ROOT}fixtures/harness`;
// Written by scripts/reference/make_harness_fixture.py: the harness itself on the same files and model.
const expected = JSON.parse(readFileSync(`${FOLDER}/expected.json`, "utf8"));
const TASKS = Object.keys(expected.results);

const codeOf = async (run: () => unknown): Promise<string> => {
  try {
    await run();
  } catch (error) {
    if (error instanceof TunesmithError) return error.code;
    throw error;
  }
  return "none";
};

describe("tasks give what the harness gives", () => {
  let model: CausalLm;
  let actual: HarnessResults;
  beforeAll(async () => {
    model = await loadModel(`${ROOT}assets/default-model`);
    const tasks = await Promise.all(TASKS.map((name) => loadTask(`${FOLDER}/${name}.yaml`)));
    actual = await runTasks(model, tasks, { batchSize: 4, session: { threads: 1 } });
  }, 60_000);

  test.each(TASKS)("%s: questions and answers row by row", (name) => {
    const rows = [...(actual.samples[name] ?? [])].sort((a, b) =>
      a.filter === b.filter ? a.doc_id - b.doc_id : a.filter < b.filter ? -1 : 1,
    );
    expect(rows.length).toBe(expected.samples[name].length);
    for (const [at, row] of rows.entries()) {
      const known = expected.samples[name][at];
      expect(row.arguments).toEqual(known.arguments);
      expect(row.resps).toEqual(
        known.resps.map((response: unknown) => {
          const near = (value: unknown) =>
            typeof value === "number" ? expect.closeTo(value, Math.abs(value) > 100 ? 1 : 3) : value;
          return Array.isArray(response) ? response.map(near) : near(response);
        }),
      );
      if (known.filtered[0] !== null) expect(row.filtered_resps).toEqual(known.filtered);
    }
  });

  test.each(TASKS)("%s: metrics", (name) => {
    for (const [key, value] of Object.entries(expected.results[name])) {
      const mine = actual.results[name]?.[key];
      if (typeof value !== "number") expect(mine, key).toBe(value);
      else expect(Math.abs((mine as number) - value) / Math.max(1, Math.abs(value)), key).toBeLessThan(1e-4);
    }
    expect(actual["n-shot"][name]).toBe(expected["n-shot"][name] ?? 0);
    expect(actual.higher_is_better[name]).toEqual(expected.higher_is_better[name]);
  });

  test("a limit takes the first rows; other shots and scores of the registry", async () => {
    const base = await loadTask(`${FOLDER}/first.yaml`);
    const task: HarnessTask = { ...base, metric_list: [{ metric: "f1_macro" }, { metric: "ece" }] };
    const { results, ...rest } = await runTasks(model, [task], { limit: 3, numFewshot: 0 });
    expect(rest["n-samples"].first).toEqual({ original: 12, effective: 3 });
    expect(rest["n-shot"].first).toBe(0);
    expect(rest.samples.first?.[0]?.arguments[0]?.[0]).toMatch(/^Q: .*\nA:$/s);
    expect(results.first?.["f1_macro,none"]).toBeGreaterThanOrEqual(0);
    expect(results.first?.["ece,none"]).toBeLessThanOrEqual(1);
  });

  test("wrong tasks are refused before anything runs", async () => {
    const task = await loadTask(`${FOLDER}/first.yaml`);
    const run = (change: Partial<HarnessTask>) => codeOf(() => runTasks(model, [{ ...task, ...change }]));
    expect(await run({ metric_list: [{ metric: "blue" }] })).toBe("config-invalid");
    expect(await run({ metric_list: [{ metric: "bleu" }] })).toBe("config-invalid");
    expect(await run({ metric_list: [{ metric: "acc", aggregation: "bits_per_byte" }] })).toBe(
      "config-invalid",
    );
    expect(await run({ test_split: "dev" })).toBe("config-invalid");
    expect(await run({ test_split: null })).toBe("config-invalid");
    expect(await run({ filter_list: [{ name: "a", filter: [{ function: "b" }] }] })).toBe("config-invalid");
    expect(await run({ dataset_path: "someone/dataset" })).toBe("format-unsupported");
    expect(await run({ num_fewshot: 99, fewshot_config: { sampler: "default" } })).toBe("data-empty");
    const noExamples = { fewshot_split: null, training_split: null, fewshot_config: undefined };
    expect(await run({ ...noExamples, num_fewshot: 1 })).toBe("config-invalid");
    expect(await run({ doc_to_text: "{{missing}}" })).toBe("data-invalid");
    expect(await run({ doc_to_text: "{{" })).toBe("config-invalid");
    expect(await codeOf(() => runTasks(model, [task, task]))).toBe("name-conflict");
    expect(await codeOf(() => runTasks({ ...model, tokenizer: undefined }, [task]))).toBe(
      "tokenizer-unsupported",
    );
  });
});

describe("task files", () => {
  const base = { task: "t", dataset_path: "json", doc_to_text: "a", doc_to_target: "b" };

  test("Python code is refused by name, unless another file replaces it", async () => {
    expect(await codeOf(() => loadTask(`${FOLDER}-invalid/function.yaml`))).toBe("format-unsupported");
    await expect(loadTask(`${FOLDER}-invalid/function.yaml`)).rejects.toThrow(/process_docs.*utils\.clean/s);
    expect((await loadTask(`${FOLDER}-invalid/replaced.yaml`)).doc_to_text).toBe("{{question}}");
  });

  test("unknown keys and wrong values are named", async () => {
    expect(await codeOf(() => parseTask({ ...base, doc_to_txt: "a" }))).toBe("config-invalid");
    expect(await codeOf(() => parseTask({ ...base, output_type: "essay" }))).toBe("config-invalid");
    expect(await codeOf(() => parseTask({ ...base, doc_to_image: "image" }))).toBe("format-unsupported");
    expect(await codeOf(() => loadTask(`${FOLDER}-invalid/circle.yaml`))).toBe("config-invalid");
    expect(await codeOf(() => loadTask(`${FOLDER}-invalid/nowhere.yaml`))).toBe("file-not-found");
  });
});

test("templates: line ends, lists, filters, missing fields", async () => {
  const doc = { a: "x y", list: ["p", "q'r"], n: 2, deep: { yes: true } };
  expect(docTemplate("{{a}}\n").render(doc)).toBe("x y\n");
  expect(docTemplate("{% if n == 2 %}\n two{% endif %}").render(doc)).toBe("\n two");
  expect(docTemplate("{{list}} {{deep.yes}} {{none}}").render(doc)).toBe("['p', \"q'r\"] True None");
  expect(docTemplate("{{list}}").value(doc)).toEqual(["p", "q'r"]);
  expect(docTemplate("{{list.index('p')}}").value(doc)).toBe(0);
  expect(docTemplate("{{a|regex_replace('(x) (y)', '\\\\2\\\\1')}}").render(doc)).toBe("yx");
  expect(docTemplate("{{b|default('z')}}{{ 1 if c is defined else 0 }}").render(doc)).toBe("z0");
  expect(await codeOf(() => docTemplate("{{deep.no}}").render(doc))).toBe("data-invalid");
  expect(await codeOf(() => docTemplate("{{list.index('z')}}").render(doc))).toBe("data-invalid");
});

test("windows predict every token once, with as much before it as fits", () => {
  const ids = Array.from({ length: 11 }, (_, at) => at);
  const windows = rollingWindows(ids, 99, 4);
  expect(windows.flatMap(({ continuation }) => continuation)).toEqual(ids);
  expect(windows.map(({ context, continuation }) => context.length + continuation.length)).toEqual([5, 5, 5]);
  expect(windows[0]?.context).toEqual([99]);
  expect(windows[2]).toEqual({ context: [6, 7], continuation: [8, 9, 10] });
  expect(rollingWindows([], 99, 4)).toEqual([]);
});
