/** The fixture model in the page: forward and every gradient against the reference's numbers. */
import { makeDir, writeFileAtomic } from "#io";
import { gradients } from "../../src/autodiff/index.js";
import { input, makeGraph, ops, rewriteValues, type Value } from "../../src/graph/index.js";
import { loadFolder } from "../../src/models/load.js";
import { createSession, type SessionOptions } from "../../src/runtime/index.js";
import { openSafetensors, type Tensor, type TensorFile, tensor } from "../../src/tensor/index.js";
import { assert, difference } from "./harness.js";

const URL_OF_FIXTURE = "/fixtures/models/gpt2/";
const FOLDER = "/models/gpt2";

/** Copies the fixture's files to the origin private file system, as an application would keep a download. */
async function download(): Promise<void> {
  await makeDir(FOLDER);
  for (const file of ["config.json", "model.safetensors"]) {
    const response = await fetch(URL_OF_FIXTURE + file);
    await writeFileAtomic(`${FOLDER}/${file}`, new Uint8Array(await response.arrayBuffer()));
  }
}

function meanLoss(logits: Value, labels: Value): Value {
  const known = ops.cast(ops.greaterOrEqual(labels, 0), "float32");
  const safe = ops.unsqueeze(ops.max(labels, 0), 1);
  const picked = ops.squeeze(ops.gatherElements(ops.logSoftmax(logits), safe, 1), 1);
  const total = ops.reduceSum(ops.mul(picked, known), undefined, false);
  return ops.neg(ops.div(total, ops.reduceSum(known, undefined, false)));
}

/** Graph of logits, loss and all gradients with the weights as inputs, and what it is fed. */
async function gpt2Graph(expected: TensorFile) {
  const model = await loadFolder(FOLDER);
  const ids = await expected.read("input_ids");
  const [batch, length] = ids.shape as [number, number];
  const inputs = {
    ids: input("ids", "int64", [batch, length]),
    positions: input("positions", "int64", [batch, length]),
    segments: input("segments", "int32", [batch, length]),
  };
  const labels = input("labels", "int64", [batch * length]);
  const frozen = [...model.weights.values()];
  const trained = frozen.map((value) => input(String(value.name), "float32", value.shape));
  const replace = new Map(frozen.map((value, at) => [value, trained[at] as Value] as const));
  const outputs = model.build(inputs);
  const logits = rewriteValues([outputs.logits], { replace })(outputs.logits);
  const loss = meanLoss(logits, labels);
  const named = gradients(loss, trained).map((grad, at): [string, Value] => [
    `grad.${trained[at]?.name}`,
    grad,
  ]);
  const tokens = Array.from(ids.data as BigInt64Array, Number);
  const feeds: Record<string, Tensor> = {
    ids,
    positions: tensor(
      "int64",
      [batch, length],
      tokens.map((_, at) => at % length),
    ),
    segments: tensor(
      "int32",
      [batch, length],
      tokens.map(() => 1),
    ),
    labels: tensor(
      "int64",
      [batch * length],
      tokens.map((_, at) => ((at + 1) % length === 0 ? -1 : (tokens[at + 1] as number))),
    ),
  };
  const checkpoint = await openSafetensors(
    `${URL_OF_FIXTURE}model.safetensors`.replace(/^/, location.origin),
  );
  for (const value of trained) feeds[String(value.name)] = await checkpoint.read(String(value.name));
  const graph = makeGraph(
    "gpt2",
    [...Object.values(inputs), labels, ...trained],
    [["logits", logits], ["loss", loss], ...named],
  );
  const frozenGraph = makeGraph("gpt2-frozen", Object.values(inputs), [["logits", outputs.logits]]);
  return { graph, frozenGraph, feeds };
}

/** Largest relative difference of logits, loss and gradients from the fixture's, with weights fed and with weights frozen. */
export async function gpt2Matches(options: SessionOptions, tolerance: number): Promise<string> {
  await download();
  const expected = await openSafetensors(`${location.origin}${URL_OF_FIXTURE}expected.safetensors`);
  const { graph, frozenGraph, feeds } = await gpt2Graph(expected);
  const session = await createSession(graph, options);
  const results = await session.run(feeds);
  await session.release();
  const frozen = await createSession(frozenGraph, options);
  const { ids, positions, segments } = feeds as Record<"ids" | "positions" | "segments", Tensor>;
  const { logits } = await frozen.run({ ids, positions, segments });
  await frozen.release();
  let worst = 0;
  const compare = async (name: string, actual: Tensor | undefined) => {
    const wanted = await expected.read(name);
    const error = difference(actual && { ...actual, shape: wanted.shape }, wanted, 1e-6);
    assert(error <= tolerance, `${name}: relative difference ${error}, allowed ${tolerance}`);
    worst = Math.max(worst, error);
  };
  await compare("logits", logits);
  const names = [
    "logits",
    "loss",
    ...[...expected.entries.keys()].filter((name) => name.startsWith("grad.")),
  ];
  assert(names.length > 20, "the fixture holds gradients");
  for (const name of names) await compare(name, results[name]);
  return `${names.length} tensors, largest relative difference ${worst.toExponential(1)}`;
}
