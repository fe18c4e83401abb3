import { fileExists, readText, writeFileAtomic } from "#io";
import type { TokenizedExample } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { makeGraph } from "../../graph/index.js";
import { type CausalLm, inputsOf, parameterFeeds } from "../../models/index.js";
import { createSession, type SessionOptions } from "../../runtime/index.js";
import { hashWords } from "../hash.js";
import {
  checkedPlan,
  collateRows,
  epochOrder,
  type RowPlan,
  rowFeeds,
  rowInputs,
  rowLogProbs,
  rowPass,
  rowWords,
} from "../language-rows.js";
import { closeAll, onlyRead, perShape } from "../stepper.js";
import type { PairExample } from "./pairs.js";

/** Scores rows of tokens with compiled sessions that are kept. */
export interface RowScorer {
  /** Log-probabilities of each row's labels: `[length]` per row, 0 where nothing is trained, the token's own at the place before it. */
  run(rows: readonly TokenizedExample[]): Promise<Float32Array[]>;
  close(): Promise<void>;
}

/** A scorer of a model as it is at each run; adapters' values are read anew. */
export function rowScorer(
  model: CausalLm,
  plan: RowPlan,
  options: { readonly session?: SessionOptions | undefined } = {},
): RowScorer {
  const compiled = perShape(async (shape) => {
    const inputs = rowInputs(shape);
    const logs = rowLogProbs(model, rowPass(model, inputs, { training: false }), inputs);
    const graph = makeGraph("score", inputsOf([logs]), [["logs", logs]]);
    return { graph, session: await createSession(graph, options.session) };
  });
  return {
    async run(rows) {
      const scored: Float32Array[] = [];
      for (const { items } of epochOrder(rows.length, plan.batchSize, 0, undefined)) {
        const chosen = items.map((at) => rows[at] as TokenizedExample);
        const batch = collateRows(chosen, plan, plan.batchSize);
        const [count, length] = batch.inputIds.shape as [number, number];
        const { graph, session } = await compiled.get({ batch: count, length });
        const feeds = { ...rowFeeds(batch), ...parameterFeeds(graph, model.parameters) };
        const { logs } = await session.run(onlyRead(graph.inputs, feeds));
        const data = logs?.data as Float32Array;
        for (const row of chosen.keys()) scored.push(data.slice(row * length, (row + 1) * length));
      }
      return scored;
    },
    async close() {
      await closeAll((await compiled.clear()).map(({ session }) => session.release));
    },
  };
}

export interface ReferenceOptions extends RowPlan {
  /** Keep the numbers here, and read them from here when they are of the same model and rows. */
  readonly file?: string;
  /** Names the reference model in the file, for example by its fingerprint; needed with `file`. */
  readonly fingerprint?: string;
  readonly session?: SessionOptions;
}

/**
 * Pairs with their log-probabilities under the reference model, computed once: the training then runs without it.
 *
 * Throws `file-corrupt` for a file that is no such cache, `config-invalid` for one without a fingerprint.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, setActive } from "tunesmith/methods";
 * import { dpo, type PairExample, withReference } from "tunesmith/training";
 * export async function objective(model: AdaptedLm, pairs: readonly PairExample[]) {
 *   const plan = { batchSize: 4, lengths: [256], padId: 0 };
 *   return dpo(model, { ...plan, train: await withReference(setActive(model, []), pairs, plan) });
 * }
 * ```
 */
export async function withReference(
  reference: CausalLm,
  pairs: readonly PairExample[],
  options: ReferenceOptions,
): Promise<PairExample[]> {
  const { file, fingerprint } = options;
  if (file !== undefined && fingerprint === undefined) {
    throw new TunesmithError("config-invalid", "a file of reference scores needs the model's fingerprint", {
      fix: "give { file, fingerprint }",
    });
  }
  const rows = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const key = `${fingerprint}/${hashWords(() => rowWords([rows]))}`;
  const kept = file === undefined ? undefined : await readKept(file, key, rows.length);
  const sums = kept ?? (await sumsOf(reference, rows, options));
  if (file !== undefined && !kept) await writeFileAtomic(file, JSON.stringify({ key, sums }));
  return pairs.map((pair, at) => ({
    ...pair,
    reference: { chosen: sums[2 * at] as number, rejected: sums[2 * at + 1] as number },
  }));
}

async function sumsOf(reference: CausalLm, rows: readonly TokenizedExample[], options: ReferenceOptions) {
  const plan = checkedPlan(reference, [rows], options, "pairs");
  const scorer = rowScorer(reference, plan, options);
  try {
    return (await scorer.run(rows)).map((logs) => logs.reduce((sum, log) => sum + log, 0));
  } finally {
    await scorer.close();
  }
}

/** Scores of a file, if they are of these rows. */
async function readKept(file: string, key: string, count: number): Promise<readonly number[] | undefined> {
  if (!(await fileExists(file))) return undefined;
  try {
    const found = JSON.parse(await readText(file)) as { key: string; sums: number[] };
    const fits = Array.isArray(found.sums) && found.sums.every(Number.isFinite);
    if (!fits) throw new SyntaxError("no list of numbers");
    return found.key === key && found.sums.length === count ? found.sums : undefined;
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${file} holds no reference scores`, {
      fix: "name another file, or delete it",
      details: { cause: String(cause) },
    });
  }
}
