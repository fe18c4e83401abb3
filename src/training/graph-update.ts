import type { SessionOptions } from "../runtime/index.js";
import {
  createUpdateSession,
  type GraphUpdate,
  type Optimizer,
  type OptimizerState,
  type Params,
  type Shapes,
  type UpdateSession,
} from "./optim/index.js";
import type { UpdateContext } from "./optim/types.js";

/** Makes updates: in this thread, or as a graph on the runtime's threads. */
export interface Updater {
  step(params: Params, grads: Params, state: OptimizerState, context: UpdateContext): Promise<void>;
  close(): Promise<void>;
}

/** From so many trained numbers on these optimisers are faster as a graph (bench/results.json); AdamW and SGD are not. */
const MANY = 10_000_000;
const FASTER: ReadonlySet<string> = new Set(["lion", "adafactor", "muon"]);
/** Muon's matrix products outgrow one thread earlier: numbers of its largest matrix. */
const LARGE_MATRIX = 256 * 256;

/** Whether updates run as a graph: where that was measured to be faster. */
export function updatesInGraph({ graph }: Optimizer, shapes: Shapes): boolean {
  if (!graph || !FASTER.has(graph.name)) return false;
  const sizes = [...shapes.values()].map((shape) => ({
    rank: shape.length,
    size: shape.reduce((a, b) => a * b, 1),
  }));
  const all = sizes.reduce((sum, { size }) => sum + size, 0);
  return (
    all > MANY ||
    (graph.name === "muon" && sizes.some(({ rank, size }) => rank === 2 && size >= LARGE_MATRIX))
  );
}

/**
 * Updates by an optimiser, in the graph where `inGraph` says so. Both forms share their state and give the same numbers up
 * to rounding. The session is made at the first update; updates of some of the parameters only are made by the loop.
 */
export function createUpdater(
  optimizer: Optimizer,
  shapes: Shapes,
  inGraph: boolean,
  options?: SessionOptions,
): Updater {
  const { graph } = optimizer;
  let session: Promise<UpdateSession> | undefined;
  return {
    async step(params, grads, state, context) {
      if (!inGraph || !graph || grads.size < shapes.size) {
        optimizer.step(params, grads, state, context);
        return;
      }
      session ??= open(graph, shapes, options);
      const updates = graph.before ? graph.before(grads, state, params, context) : grads;
      await (await session).step(params, updates, graph.stateOf ? graph.stateOf(state) : state, context);
    },
    async close() {
      await (await session)?.release();
    },
  };
}

const open = ({ name, options }: GraphUpdate, shapes: Shapes, how?: SessionOptions): Promise<UpdateSession> =>
  createUpdateSession(name, options as never, shapes, how);
