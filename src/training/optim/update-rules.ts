import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { type AdafactorOptions, adafactor, adafactorSettings } from "./adafactor.js";
import { type OptimizerOptions, ratesOf } from "./finished.js";
import { adamBias } from "./fused-adam.js";
import { type MuonOptions, muon, muonFactor, muonSettings, NEWTON_SCHULZ } from "./muon.js";
import { adamw, sgd } from "./optimizers.js";
import { lion } from "./scaled.js";
import { type AdamOptions, adamDefaults, innerOf } from "./transforms.js";
import type { Optimizer, OptimizerState } from "./types.js";

interface OptionsByName {
  sgd: OptimizerOptions & { momentum?: number; nesterov?: boolean };
  adamw: OptimizerOptions & AdamOptions;
  lion: OptimizerOptions & { betas?: readonly [number, number] };
  adafactor: AdafactorOptions;
  muon: MuonOptions;
}

/** Optimisers whose step there is as a graph. */
export type GraphOptimizerName = keyof OptionsByName;

interface Given {
  readonly weights: Value;
  readonly grad: Value;
  /** Clipping's factor. */
  readonly gradScale: Value | undefined;
  readonly lr: Value;
  readonly slots: Readonly<Record<string, Value>>;
  readonly scalars: Readonly<Record<string, Value>>;
}

/** The update of one parameter: what it keeps, and graph code. */
export interface ParameterUpdate {
  /** Shapes of the state's arrays. */
  readonly slots: Readonly<Record<string, readonly number[]>>;
  update(given: Given): { weights: Value; slots: Readonly<Record<string, Value>> };
}

/** An optimiser as graph code. */
export interface UpdateRule {
  readonly optimizer: Optimizer;
  /** Where in the state the arrays are. */
  stateOf(state: OptimizerState): OptimizerState;
  /** Names of numbers that depend on the step alone. */
  readonly scalars: readonly string[];
  scalarsAt(step: number): Readonly<Record<string, number>>;
  lr(name: string, step: number): number;
  of(name: string, shape: readonly number[]): ParameterUpdate;
}

const { add, sub, mul, div, sqrt, square } = ops;

/** The rule of an optimiser. Throws `config-invalid` for options without graph. */
export function ruleOf<Name extends GraphOptimizerName>(
  name: Name,
  options: OptionsByName[Name],
): UpdateRule {
  switch (name) {
    case "sgd":
      return sgdRule(options as OptionsByName["sgd"]);
    case "adamw":
      return adamwRule(options as OptionsByName["adamw"]);
    case "lion":
      return lionRule(options as OptionsByName["lion"]);
    case "adafactor":
      return adafactorRule(options as OptionsByName["adafactor"]);
    case "muon":
      return muonRule(options as OptionsByName["muon"]);
    default:
      return withoutGraph(`the optimiser '${name}'`, "use sgd, adamw, lion, adafactor or muon");
  }
}

function withoutGraph(what: string, fix: string): never {
  throw new TunesmithError("config-invalid", `${what} has no update graph`, { fix });
}

const slotIn = (given: Given, slot: string): Value => given.slots[slot] as Value;
const numberIn = (given: Given, key: string): Value => given.scalars[key] as Value;
const gradOf = ({ grad, gradScale }: Given): Value => (gradScale ? mul(grad, gradScale) : grad);
const plusDecay = (x: Value, weights: Value, decay: number): Value =>
  decay === 0 ? x : add(x, mul(weights, decay));
const stepBy = ({ weights, lr }: Given, update: Value): Value => sub(weights, mul(update, lr));
/** a + (b - a) * share */
const towards = (a: Value, b: Value, share: number): Value => add(a, mul(sub(b, a), share));

/** The chain's part behind the clipping that the options may ask for. */
const partOf = (options: { maxGradNorm?: number | undefined }, index: number) => (state: OptimizerState) =>
  innerOf(state, index + (options.maxGradNorm === undefined ? 0 : 1));

function sgdRule(options: OptionsByName["sgd"]): UpdateRule {
  const { momentum = 0, nesterov = false } = options;
  const rates = ratesOf("sgd", options);
  return {
    optimizer: sgd(options),
    stateOf: partOf(options, 1),
    scalars: [],
    scalarsAt: () => ({}),
    lr: rates.lr,
    of: (name, shape) => ({
      slots: (momentum > 0 ? { trace: shape } : {}) as ParameterUpdate["slots"],
      update(given): ReturnType<ParameterUpdate["update"]> {
        const g = plusDecay(gradOf(given), given.weights, rates.weightDecay(name));
        if (momentum === 0) return { weights: stepBy(given, g), slots: {} };
        const trace = add(mul(slotIn(given, "trace"), momentum), g);
        const update = nesterov ? add(g, mul(trace, momentum)) : trace;
        return { weights: stepBy(given, update), slots: { trace } };
      },
    }),
  };
}

interface Moments {
  readonly betas: readonly [number, number];
  readonly decay: number;
}

function adamUpdate(given: Given, { betas: [beta1, beta2], decay }: Moments) {
  const g = gradOf(given);
  const mu = towards(slotIn(given, "mu"), g, 1 - beta1);
  const nu = add(mul(slotIn(given, "nu"), beta2), mul(square(g), 1 - beta2));
  const root = add(mul(sqrt(nu), numberIn(given, "factor")), numberIn(given, "offset"));
  return { weights: stepBy(given, plusDecay(div(mu, root), given.weights, decay)), slots: { mu, nu } };
}

const ADAM_SCALARS = ["factor", "offset"];

function adamwRule(options: OptionsByName["adamw"]): UpdateRule {
  const { betas, eps, amsgrad } = adamDefaults(options);
  if (amsgrad) withoutGraph("amsgrad", "use adamw without it, or the loop");
  const optimizer = adamw(options);
  const rates = ratesOf("adamw", { ...options, weightDecay: options.weightDecay ?? 0.01 });
  return {
    optimizer,
    stateOf: partOf(options, 0),
    scalars: ADAM_SCALARS,
    scalarsAt: (step) => ({ ...adamBias(betas[0], betas[1], eps, step) }),
    lr: rates.lr,
    of: (name, shape) => ({
      slots: { mu: shape, nu: shape },
      update: (given) => adamUpdate(given, { betas, decay: rates.weightDecay(name) }),
    }),
  };
}

function lionRule(options: OptionsByName["lion"]): UpdateRule {
  const [beta1, beta2] = options.betas ?? [0.9, 0.99];
  const rates = ratesOf("lion", options);
  return {
    optimizer: lion(options),
    stateOf: partOf(options, 0),
    scalars: [],
    scalarsAt: () => ({}),
    lr: rates.lr,
    of: (name, shape) => ({
      slots: { mu: shape },
      update(given) {
        const g = gradOf(given);
        const mu = slotIn(given, "mu");
        const direction = ops.sign(add(mul(mu, beta1), mul(g, 1 - beta1)));
        const update = plusDecay(direction, given.weights, rates.weightDecay(name));
        return {
          weights: stepBy(given, update),
          slots: { mu: add(mul(mu, beta2), mul(g, 1 - beta2)) },
        };
      },
    }),
  };
}

function adafactorRule(options: AdafactorOptions): UpdateRule {
  const settings = adafactorSettings(options);
  const { rates, eps, minScale, clipThreshold, beta1, scaleParameter } = settings;
  if (!settings.factored) withoutGraph("Adafactor with factored: false", "use adamw, or the loop");
  const rms = (x: Value): Value => sqrt(ops.reduceMean(square(x), undefined, false));
  return {
    optimizer: adafactor(options),
    stateOf: (state) => state,
    scalars: ["keep", "take"],
    scalarsAt: (step) => ({ keep: settings.beta2(step), take: 1 - settings.beta2(step) }),
    lr: settings.rate,
    of: (name, shape) => ({
      slots: { ...secondMomentShapes(shape), ...(beta1 === undefined ? {} : { mu: shape }) },
      update(given) {
        const lr = scaleParameter ? mul(given.lr, ops.max(rms(given.weights), minScale)) : given.lr;
        const g = gradOf(given);
        const { scaled, slots } = secondMoment(given, g, add(square(g), eps), shape);
        const clip = ops.max(div(rms(scaled), clipThreshold), 1);
        let update = mul(scaled, div(lr, clip));
        const mu = beta1 === undefined ? undefined : towards(update, slotIn(given, "mu"), beta1);
        update = mu ?? update;
        const decay = rates.weightDecay(name);
        const kept = decay === 0 ? given.weights : sub(given.weights, mul(given.weights, mul(lr, decay)));
        return { weights: sub(kept, update), slots: mu ? { ...slots, mu } : slots };
      },
    }),
  };
}

const secondMomentShapes = (shape: readonly number[]): Record<string, readonly number[]> =>
  shape.length < 2
    ? { nu: shape }
    : { row: [...shape.slice(0, -1), 1], col: [...shape.slice(0, -2), 1, shape.at(-1) as number] };

function secondMoment(
  given: Given,
  g: Value,
  squares: Value,
  shape: readonly number[],
): { scaled: Value; slots: Readonly<Record<string, Value>> } {
  const blend = (before: Value, now: Value): Value =>
    add(mul(before, numberIn(given, "keep")), mul(now, numberIn(given, "take")));
  if (shape.length < 2) {
    const nu = blend(slotIn(given, "nu"), squares);
    return { scaled: div(g, sqrt(nu)), slots: { nu } };
  }
  const row = blend(slotIn(given, "row"), ops.reduceMean(squares, [-1], true));
  const col = blend(slotIn(given, "col"), ops.reduceMean(squares, [-2], true));
  const mean = ops.reduceMean(row, [-2], true);
  return { scaled: div(div(g, sqrt(div(row, mean))), sqrt(col)), slots: { row, col } };
}

function muonRule(options: MuonOptions): UpdateRule {
  const { betas, eps, rates, momentum, nesterov, iterations, matrixScale, isMatrix } = muonSettings(options);
  return {
    optimizer: muon(options),
    stateOf: (state) => state,
    scalars: ADAM_SCALARS,
    scalarsAt: (step) => ({ ...adamBias(betas[0], betas[1], eps, step) }),
    lr: rates.lr,
    of(name, shape) {
      const decay = rates.weightDecay(name);
      const [rows = 1, cols = 1] = shape;
      if (!isMatrix(name, shape)) {
        const slots = { mu: shape, nu: shape };
        return { slots, update: (given) => adamUpdate(given, { betas, decay }) };
      }
      return {
        slots: { momentum: shape },
        update(given) {
          const g = gradOf(given);
          const average = towards(slotIn(given, "momentum"), g, 1 - momentum);
          const update = newtonSchulz(nesterov ? towards(g, average, momentum) : average, shape, iterations);
          const scaled = mul(update, muonFactor(matrixScale, rows, cols));
          return {
            weights: stepBy(given, plusDecay(scaled, given.weights, decay)),
            slots: { momentum: average },
          };
        },
      };
    },
  };
}

/** As `newtonSchulz` of muon.ts. */
function newtonSchulz(matrix: Value, [rows = 1, cols = 1]: readonly number[], iterations: number): Value {
  const [a, b, c] = NEWTON_SCHULZ;
  const tall = rows > cols;
  let x = tall ? ops.transposeLast(matrix) : matrix;
  x = div(x, ops.max(sqrt(ops.reduceSum(square(x), undefined, false)), 1e-7));
  for (let i = 0; i < iterations; i++) {
    const gram = ops.gemm(x, x, undefined, { transB: true });
    const polynomial = add(mul(gram, b), mul(ops.matmul(gram, gram), c));
    x = add(mul(x, a), ops.matmul(polynomial, x));
  }
  return tall ? ops.transposeLast(x) : x;
}
