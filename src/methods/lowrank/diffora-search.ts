import { TunesmithError } from "../../errors/index.js";
import type { Model } from "../../models/index.js";
import type { SessionOptions } from "../../runtime/index.js";
import {
  adamw,
  checkFinite,
  createStepper,
  type Objective,
  type Optimizer,
  type Params,
  type PlainData,
  type StepBatch,
  type Stepper,
} from "../../training/index.js";
import { adapt, adapterNamed } from "../adapt.js";
import type { Adapted } from "../adapted.js";
import type { Adaptation } from "../method.js";
import { type DifforaConfig, difforaMethod, logitOf, settled } from "./diffora.js";
import {
  type Position,
  type SearchCheckpoints,
  type SearchState,
  searchKeeper,
} from "./diffora-checkpoint.js";
import { type ModuleTable, placeOf, selectModules } from "./diffora-table.js";

/** The part of the training data that updates learn from, or that gates are judged by. */
export type SearchHalf = "updates" | "gates";

export interface GateEvent {
  readonly step: number;
  /** Gate of every candidate, by path. */
  readonly gates: ReadonlyMap<string, number>;
  /** Mean loss on the batch of the updates, before they learnt from it, and on that of the gates. */
  readonly loss: number;
  readonly gateLoss: number;
}

export interface ModuleSearchOptions<M extends Model> extends SearchCheckpoints {
  /** The same objective over either half of the data; the rows of the two must differ. */
  readonly objective: (model: Adapted<M>, half: SearchHalf) => Objective | Promise<Objective>;
  /** Steps: of each kind of parameters so many. */
  readonly steps: number;
  /** Of the updates. */
  readonly optimizer: Optimizer;
  /** Of the gates' logits. Default: Adam, as `gateLr` and `gateDecay` say. */
  readonly gateOptimizer?: Optimizer;
  /** Batches per step of either kind. Default 1. */
  readonly accumulate?: number;
  /** Length ξ of the unrolled step of `order` 2. Default: the optimiser's learning rate. */
  readonly unrolled?: number;
  /** Name of the adapter. Default "default". */
  readonly name?: string;
  /** Seed of starts, order and dropout. Default 0. */
  readonly seed?: number;
  readonly session?: SessionOptions;
  readonly signal?: AbortSignal | undefined;
  /** Called after every step. */
  readonly onGates?: (event: GateEvent) => void;
}

export interface ModuleSearch<M extends Model> {
  readonly table: ModuleTable;
  /** The base with updates at the selected modules, ready to be trained. */
  readonly model: Adapted<M>;
  /** All candidates behind their gates, as the search left them. */
  readonly relaxed: Adapted<M>;
}

/** An update gets its gate's gradients this many times as fast, unless `gateLr` says how fast. */
const GATE_FACTOR = 5;

/**
 * DiffoRA's search (arXiv 2502.08905): every candidate has a low-rank update behind a gate; updates learn from one half of the
 * data and gates from the other, in turn; the largest gates then say which modules keep an update. Judging gates by data that
 * their updates have not seen is what tells modules that help from those that only fit. Deterministic by seed; a search that was
 * killed continues from its last checkpoint with the same numbers, bit for bit.
 *
 * Throws `config-invalid` for a configuration that has its modules already, `target-not-found`, `loss-not-finite`, `cancelled`,
 * `checkpoint-mismatch`, `in-use` when another process or tab works in `runDir`, and what the objectives throw.
 *
 * @example
 * ```ts
 * import { diffora, searchModules } from "tunesmith/methods";
 * import type { CausalLm, Model } from "tunesmith/models";
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * type Make = (model: Model) => Objective;
 * export async function tune(base: CausalLm, all: Make, halves: { updates: Make; gates: Make }) {
 *   const { model, table } = await searchModules(base, diffora({ perLayer: 2, targets: "all-linear" }), {
 *     objective: (own, half) => halves[half](own),
 *     steps: 100,
 *     optimizer: adamw({ lr: 1e-3 }),
 *   });
 *   console.log(table.selected);
 *   await fit(all(model), { steps: 300, optimizer: adamw({ lr: 1e-3 }) });
 *   return model; // plain LoRA, at the selected modules
 * }
 * ```
 */
export async function searchModules<M extends Model>(
  base: M,
  adaptation: Adaptation<DifforaConfig>,
  options: ModuleSearchOptions<M>,
): Promise<ModuleSearch<M>> {
  const config = candidatesOf(adaptation);
  const { name = "default", seed = 0 } = options;
  const relaxed = await adapt(base, { method: difforaMethod, config }, { name, seed });
  const paths = [...adapterNamed(relaxed, name).sites.keys()];
  const gates = () => gatesOf(relaxed, paths, config, name);
  // A selection that cannot be made is better known before the search.
  selectModules(gates(), config);
  const halves = {
    updates: await options.objective(relaxed, "updates"),
    gates: await options.objective(relaxed, "gates"),
  };
  const stepper = createStepper(halves.updates, {
    seed,
    ...(options.session ? { session: options.session } : {}),
  });
  try {
    await alternate({ relaxed, paths, config, options, stepper, halves, gates });
  } finally {
    await stepper.close();
  }
  const table = selectModules(gates(), config);
  const model = await adapt(base, settled({ ...config, selected: [...table.selected] }) as Adaptation, {
    name,
    seed,
  });
  if (config.warmStart) keepUpdates(relaxed, model, name);
  return { table, model, relaxed };
}

function candidatesOf({ config }: Adaptation<DifforaConfig>): DifforaConfig {
  if (config.selected === undefined) return config;
  throw new TunesmithError("config-invalid", "diffora: the modules are selected already", {
    fix: "leave `selected` out to search, or adapt the model with it",
  });
}

/** G of every candidate. */
function gatesOf(
  model: Adapted,
  paths: readonly string[],
  { relax }: DifforaConfig,
  name: string,
): Map<string, number> {
  const { shared } = adapterNamed(model, name);
  const logit = (path: string) => Number(shared[logitOf(path)]?.tensor.data[0]);
  if (relax === "sigmoid") return new Map(paths.map((path) => [path, 1 / (1 + Math.exp(-logit(path)))]));
  return new Map(
    paths.map((path) => {
      const row = paths.filter((other) => placeOf(other).layer === placeOf(path).layer);
      const sum = row.reduce((total, other) => total + Math.exp(logit(other) - logit(path)), 0);
      return [path, row.length / sum];
    }),
  );
}

interface Search<M extends Model> {
  readonly relaxed: Adapted<M>;
  readonly paths: readonly string[];
  readonly config: DifforaConfig;
  readonly options: ModuleSearchOptions<M>;
  readonly stepper: Stepper;
  readonly halves: Readonly<Record<SearchHalf, Objective>>;
  readonly gates: () => ReadonlyMap<string, number>;
}

/** Loss and gradients of everything that is trained, on some batches. */
type Look = (
  batches: readonly StepBatch[],
  stream: readonly number[],
) => Promise<{ readonly loss: number; readonly gradients: Params }>;

/** One step of the updates on their half, one of the gates on theirs, and again. */
async function alternate<M extends Model>(search: Search<M>): Promise<void> {
  const { options, stepper, halves, gates, config } = search;
  const { steps, optimizer, seed = 0, signal, accumulate = 1 } = options;
  const { updates, own, shapes } = partsOf(search);
  const { gateOptimizer = gateAdam(config, optimizer) } = options;
  const state: SearchState = {
    params: new Map([...updates, ...own]),
    optimizers: [optimizer.init(updates, shapes), gateOptimizer.init(own, shapes)],
    step: 0,
    positions: [START, START],
  };
  const keeper = await searchKeeper(state, [halves.updates, halves.gates], steps, {
    ...options,
    config: identityOf(search, gateOptimizer),
  });
  const look: Look = (batches, stream) => looked(stepper, batches, stream);
  const [first, second] = [halves.updates, halves.gates].map((half, at) =>
    draws(half, state.positions[at] as Position, seed, accumulate),
  ) as [Draws, Draws];
  try {
    while (state.step < steps) {
      if (signal?.aborted) throw await keeper.cancelled();
      const step = state.step + 1;
      const batch = await first.next();
      const { loss, gradients } = await look(batch, [step, 0]);
      checkFinite({ step, loss, grads: gradients });
      optimizer.step(updates, only(gradients, updates), state.optimizers[0], { step });
      const judged = await second.next();
      const rate = options.unrolled ?? optimizer.learningRate(step);
      const found =
        config.order === 1
          ? await look(judged, [step, 1])
          : await secondOrder({ look, updates, own, rate, batch, judged, step });
      checkFinite({ step, loss: found.loss, grads: found.gradients });
      gateOptimizer.step(own, only(found.gradients, own), state.optimizers[1], { step });
      state.step = step;
      state.positions = [positionAfter(batch), positionAfter(judged)];
      options.onGates?.({ step, gates: gates(), loss, gateLoss: found.loss });
      await keeper.after(step);
    }
    optimizer.enterEvaluation?.(updates, state.optimizers[0]);
  } finally {
    await Promise.all([first.close(), second.close(), keeper.release()]);
  }
}

/** What learns from the one half of the data, and the logits of the gates. */
function partsOf<M extends Model>({ relaxed, paths, options: { name = "default" } }: Search<M>) {
  const logits = new Set(paths.map((path) => `${name}/${logitOf(path)}`));
  const trained = [...relaxed.parameters.values()].filter(({ trainable }) => trainable);
  const data = (isLogit: boolean) =>
    new Map(
      trained
        .filter((each) => logits.has(each.name) === isLogit)
        .map((each) => [each.name, each.tensor.data as Float32Array] as const),
    );
  const shapes = new Map(trained.map((each) => [each.name, each.tensor.shape] as const));
  return { updates: data(false), own: data(true), shapes };
}

/** What must be the same for a search to be continued. */
const identityOf = <M extends Model>(
  { config, options: { accumulate = 1, seed = 0, optimizer, unrolled, config: more } }: Search<M>,
  gateOptimizer: Optimizer,
): Record<string, PlainData> => ({
  method: JSON.parse(JSON.stringify(config)) as PlainData,
  accumulate,
  seed,
  optimizer: optimizer.name,
  gateOptimizer: gateOptimizer.name,
  ...(unrolled === undefined ? {} : { unrolled }),
  ...more,
});

const START: Position = { epoch: 0, step: 0 };

/** Where the data stand after some batches. */
const positionAfter = (batches: readonly StepBatch[]): Position => (batches.at(-1) as StepBatch).state;

/** Adam of the gates, as fast as configured, or in proportion to the updates. */
const gateAdam = ({ gateLr, gateDecay }: DifforaConfig, { learningRate }: Optimizer): Optimizer =>
  gateLr === undefined
    ? adamw({ lr: 1, weightDecay: gateDecay, schedule: (step) => GATE_FACTOR * learningRate(step + 1) })
    : adamw({ lr: gateLr, weightDecay: gateDecay });

interface Unrolling {
  readonly look: Look;
  readonly updates: Params;
  readonly own: Params;
  readonly rate: number;
  readonly batch: readonly StepBatch[];
  readonly judged: readonly StepBatch[];
  readonly step: number;
}

/**
 * The gradient of the gates' loss after a step ξ of the updates, with respect to the gates: ∇ₐL_V(θ − ξ∇L_T) less ξ times a
 * mixed second derivative, as a difference of ∇ₐL_T at θ ± ε∇L_V (DARTS, arXiv 1806.09055, eq. 7 and 8).
 */
async function secondOrder({ look, updates, own, rate, batch, judged, step }: Unrolling) {
  const saved = new Map([...updates].map(([name, values]) => [name, values.slice()] as const));
  const moveTo = (direction: Params, length: number) => {
    for (const [name, values] of updates) {
      const [start, by] = [saved.get(name) as Float32Array, direction.get(name) as Float32Array];
      for (let at = 0; at < values.length; at++)
        values[at] = (start[at] as number) + length * (by[at] as number);
    }
  };
  const restore = () => {
    for (const [name, values] of updates) values.set(saved.get(name) as Float32Array);
  };
  try {
    const { gradients: down } = await look(batch, [step, 0]);
    moveTo(down, -rate);
    const after = await look(judged, [step, 1]);
    const norm = Math.sqrt(squares(only(after.gradients, updates)));
    const epsilon = 0.01 / norm;
    if (rate === 0 || !Number.isFinite(epsilon)) return after;
    moveTo(after.gradients, epsilon);
    const { gradients: up } = await look(batch, [step, 0]);
    moveTo(after.gradients, -epsilon);
    const { gradients: below } = await look(batch, [step, 0]);
    const gradients = new Map(
      [...own.keys()].map((name) => {
        const [now, high, low] = [after.gradients, up, below].map((each) => each.get(name) as Float32Array);
        const mixed = (at: number) => (Number(high?.[at]) - Number(low?.[at])) / (2 * epsilon);
        return [name, (now as Float32Array).map((value, at) => value - rate * mixed(at))] as const;
      }),
    );
    return { loss: after.loss, gradients };
  } finally {
    restore();
  }
}

const squares = (params: Params): number =>
  [...params.values()].reduce(
    (sum, values) => sum + values.reduce((own, value) => own + value * value, 0),
    0,
  );

const only = (gradients: Params, of: Params): Map<string, Float32Array> =>
  new Map([...gradients].filter(([name]) => of.has(name)));

/** Mean loss and gradients over batches. */
async function looked(stepper: Stepper, batches: readonly StepBatch[], stream: readonly number[]) {
  const items = batches.reduce((sum, { count }) => sum + count, 0);
  let loss = 0;
  const gradients = new Map<string, Float32Array>();
  for (const [micro, batch] of batches.entries()) {
    const found = await stepper.run(batch, items, [...stream, micro]);
    loss += found.loss;
    for (const [name, values] of found.gradients) {
      const sum = gradients.get(name);
      gradients.set(name, sum ? sum.map((value, at) => value + (values[at] as number)) : values);
    }
  }
  return { loss, gradients };
}

interface Draws {
  next(): Promise<StepBatch[]>;
  close(): Promise<void>;
}

/** So many batches of an objective's training data at a time. */
function draws(objective: Objective, from: Position, seed: number, count: number): Draws {
  const source = objective.batches(from, seed);
  return {
    async next(): Promise<StepBatch[]> {
      const group: StepBatch[] = [];
      while (group.length < count) group.push((await source.next()).value as StepBatch);
      return group;
    },
    close: async () => void (await source.return?.()),
  };
}

/** Starts the updates of the selected modules where the search left them. */
function keepUpdates(from: Adapted, to: Adapted, name: string): void {
  const found = adapterNamed(from, name).sites;
  for (const [path, { tensors }] of adapterNamed(to, name).sites) {
    for (const key of ["lora_A", "lora_B"]) {
      const [old, fresh] = [found.get(path)?.tensors[key], tensors[key]];
      // Shared updates are those of no one module.
      if (old && fresh?.name === old.name)
        (fresh.tensor.data as Float32Array).set(old.tensor.data as Float32Array);
    }
  }
}
