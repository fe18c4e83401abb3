import type { Graph } from "../../graph/index.js";
import { createSession, type SessionOptions } from "../../runtime/index.js";
import type { Tensor } from "../../tensor/index.js";
import { parameterFeeds } from "../feeds.js";
import type { AnyModel, CausalLm } from "../types.js";
import { type Columns, createCache, leftPadded, oneColumn, rowsOf } from "./cache.js";
import { decodeGraph, wholeGraph } from "./decode-graph.js";

/** Decodes rows of ids step by step. */
export interface Decoder {
  /** Starts rows of any lengths afresh. */
  start(prompts: readonly (readonly number[])[]): Sequence;
  close(): Promise<void>;
}

/** Rows being decoded together, with the keys and values of all their tokens so far. */
export interface Sequence {
  /** Reads the prompts; gives the logits after each, one `[vocab]` view per row. */
  read(): Promise<Float32Array[]>;
  /** Appends one token to every row; gives the logits after it. */
  step(ids: readonly number[]): Promise<Float32Array[]>;
}

/**
 * Compiles the decoding graph of a model. Weights stay where they are; sessions over one file share them. A model
 * that takes no cache reads each row anew at every step.
 */
export async function createDecoder(model: CausalLm, options: SessionOptions = {}): Promise<Decoder> {
  const graph = decodeGraph(model);
  return graph ? cachedDecoder(model, graph, options) : wholeDecoder(model, options);
}

async function cachedDecoder(model: CausalLm, graph: Graph, options: SessionOptions): Promise<Decoder> {
  const { run, close } = await runner(model, graph, options);
  return {
    start(prompts) {
      const cache = createCache(model.sizes, prompts.length);
      const advance = async (columns: Columns) => {
        const results = await run({ ...columns, ...cache.feeds() });
        cache.append(columns, results);
        return rowsOf(results.logits as Tensor);
      };
      const lengths = prompts.map((ids) => ids.length);
      return {
        read: () => advance(leftPadded(prompts)),
        step: (ids) => advance(oneColumn(ids, lengths)),
      };
    },
    close,
  };
}

async function wholeDecoder(model: CausalLm, options: SessionOptions): Promise<Decoder> {
  const { run, close } = await runner(model, wholeGraph(model), options);
  return {
    start(prompts) {
      const rows = prompts.map((ids) => [...ids]);
      const read = async () => {
        const logits: Float32Array[] = [];
        // One by one: such models may count positions by column, which padding would shift.
        for (const [at, row] of rows.entries()) {
          const columns = leftPadded([row], [(prompts[at] as readonly number[]).length]);
          logits.push(...rowsOf((await run(columns)).logits as Tensor));
        }
        return logits;
      };
      return {
        read,
        step(ids) {
          for (const [at, row] of rows.entries()) row.push(ids[at] as number);
          return read();
        },
      };
    },
    close,
  };
}

/** A session that is fed what it reads of the given tensors, and the model's parameters. */
export async function runner(model: Pick<AnyModel, "parameters">, graph: Graph, options: SessionOptions) {
  const session = await createSession(graph, options);
  const read = new Set(session.inputNames);
  return {
    run(given: Readonly<Record<string, Tensor>>) {
      const feeds = Object.fromEntries(Object.entries(given).filter(([name]) => read.has(name)));
      // Adapters are read at every step, so that a change shows at once.
      return session.run({ ...feeds, ...parameterFeeds(graph, model.parameters) });
    },
    close: () => session.release(),
  };
}
