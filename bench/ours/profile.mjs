// Reads an ONNX Runtime profile: how much of a run its matrix products take.
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

const PRODUCTS = new Set([
  "Gemm",
  "MatMul",
  "FusedMatMul",
  "FusedGemm",
  "Conv",
  "ConvTranspose",
  "MatMulNBits",
]);

/** The last profile under a prefix: its runs but the first, and the kernels. */
function eventsOf(prefix) {
  const folder = dirname(prefix);
  const file = readdirSync(folder)
    .filter((name) => name.startsWith(basename(prefix)) && name.endsWith(".json"))
    .sort()
    .at(-1);
  const events = JSON.parse(readFileSync(join(folder, file), "utf8"));
  const runs = events.filter((event) => event.name === "model_run").slice(1);
  const kernels = events.filter((event) => event.cat === "Node" && event.name.endsWith("kernel_time"));
  return { runs, kernels };
}

/** Milliseconds of a run in each kind of operator, and how many there are: `{ Gemm: { ms, count } }`, longest first. */
export function timeByOperator(prefix) {
  const { runs, kernels } = eventsOf(prefix);
  const totals = {};
  for (const { args, dur, ts } of kernels) {
    if (ts < runs[0].ts) continue;
    totals[args.op_name] ??= { ms: 0, count: 0 };
    totals[args.op_name].ms += dur / 1000 / runs.length;
    totals[args.op_name].count += 1 / runs.length;
  }
  return Object.fromEntries(Object.entries(totals).sort(([, a], [, b]) => b.ms - a.ms));
}

/** Seconds per run, of which in products: medians over all runs but the first. */
export function gemmShare(prefix) {
  const { runs, kernels } = eventsOf(prefix);
  const measured = runs.map((run) => {
    const inside = kernels.filter((event) => event.ts >= run.ts && event.ts <= run.ts + run.dur);
    const products = inside.filter((event) => PRODUCTS.has(event.args.op_name));
    return { run: run.dur / 1e6, products: products.reduce((sum, event) => sum + event.dur, 0) / 1e6 };
  });
  const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
  return {
    runSeconds: median(measured.map(({ run }) => run)),
    gemmSeconds: median(measured.map(({ products }) => products)),
    ratio: median(measured.map(({ run, products }) => run / products)),
  };
}
