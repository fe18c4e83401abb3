import { TunesmithError } from "../../errors/index.js";
import { clipping, fromStep, type OptimizerOptions, ratesOf } from "./finished.js";
import { adamBias, fusedAdam } from "./fused-adam.js";
import { requireNumber } from "./groups.js";
import { createState, parameterOf, shapeOfParameter, shapeSlot, slotOf } from "./state.js";
import { adamDefaults, sumOfSquares } from "./transforms.js";
import type { Optimizer, OptimizerState } from "./types.js";

/** Coefficients of the quintic iteration, steepest at 0. */
export const NEWTON_SCHULZ: readonly [number, number, number] = [3.4445, -4.775, 2.0315];

/** How the learning rate follows a matrix's shape. */
export type MuonScale = "original" | "match-rms-adamw" | "spectral";

/** Settings of Muon. */
export interface MuonOptions extends OptimizerOptions {
  /** Default 0.95. */
  readonly momentum?: number | undefined;
  /** Default true. */
  readonly nesterov?: boolean | undefined;
  /** Newton-Schulz iterations. Default 5. */
  readonly iterations?: number | undefined;
  /** Default "match-rms-adamw": AdamW's learning rate fits matrices and the rest alike. */
  readonly matrixScale?: MuonScale | undefined;
  /** Matrices that AdamW updates too: a regular expression. Default: embeddings and output heads. */
  readonly adamFor?: string | undefined;
  /** AdamW's moments, for what is no matrix. Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined;
  /** AdamW's eps. Default 1e-8. */
  readonly eps?: number | undefined;
}

/** Factor of the learning rate for an `[rows, cols]` matrix, as in `torch.optim.Muon`. */
export function muonFactor(scale: MuonScale, rows: number, cols: number): number {
  if (scale === "match-rms-adamw") return 0.2 * Math.sqrt(Math.max(rows, cols));
  return Math.sqrt(scale === "original" ? Math.max(1, rows / cols) : rows / cols);
}

/** Options with their defaults filled in. */
export function muonSettings(options: MuonOptions) {
  const { momentum = 0.95, nesterov = true, iterations = 5, matrixScale = "match-rms-adamw" } = options;
  requireNumber("muon: momentum", momentum, 0, 1);
  requireNumber("muon: iterations", iterations, 1, 100);
  const { betas, eps } = adamDefaults({
    ...(options.betas && { betas: options.betas }),
    ...(options.eps !== undefined && { eps: options.eps }),
  });
  const adamFor = expression(options.adamFor ?? "embed|(^|[./])(wte|wpe|lm_head|score|classifier)([./]|$)");
  return {
    ...{ momentum, nesterov, iterations, matrixScale, betas, eps },
    rates: ratesOf("muon", options),
    isMatrix: (name: string, shape: ArrayLike<number>): boolean => shape.length === 2 && !adamFor.test(name),
  };
}

/**
 * Muon (Jordan et al. 2024; scaling of arXiv 2502.16982): the momentum of every matrix is orthogonalised by Newton-Schulz
 * iteration; AdamW updates vectors, embeddings and heads. The numbers of `torch.optim.Muon`, but in float32 where that
 * iterates in bfloat16. Needs the parameters' shapes.
 *
 * The iteration costs about `2 * iterations * min(r, c) * r * c * 3` operations on one thread: cheap for adapters, slow for
 * whole weight matrices.
 *
 * @throws `config-invalid` for a setting out of range, and from `init` without shapes.
 *
 * @example
 * ```ts
 * import { muon } from "tunesmith/training";
 * const optimizer = muon({ lr: 1e-3, weightDecay: 0.1 });
 * const params = new Map([["w", Float32Array.of(1, 0, 0, 1)]]);
 * const state = optimizer.init(params, new Map([["w", [2, 2]]]));
 * optimizer.step(params, new Map([["w", Float32Array.of(1, 2, 3, 4)]]), state, { step: 1 });
 * ```
 */
export function muon(options: MuonOptions): Optimizer {
  const { momentum, nesterov, iterations, matrixScale, betas, eps, rates, isMatrix } = muonSettings(options);
  const [clip] = clipping(options);
  const optimizer = fromStep("muon", options, {
    init(params, shapes) {
      const shape = shapeSlot("muon", params, shapes);
      const orthogonal = (name: string) => isMatrix(name, shape.get(name) ?? []);
      const matrices = new Map([...params].filter(([name]) => orthogonal(name)));
      const rest = new Map([...params].filter(([name]) => !orthogonal(name)));
      const slots = {
        shape,
        ...createState(matrices, ["momentum"]).slots,
        ...createState(rest, ["mu", "nu"]).slots,
      };
      return { slots, scalars: {}, inner: clip ? [clip.init(params)] : [] };
    },
    step(params, grads, state, context) {
      if (clip) clip.update(grads, state.inner[0] as OptimizerState, params, context);
      const bias = adamBias(betas[0], betas[1], eps, context.step);
      for (const [name, grad] of grads) {
        const weights = parameterOf(params, name, grad.length);
        const lr = rates.lr(name, context.step);
        const decay = rates.weightDecay(name);
        if (!state.slots.momentum?.has(name)) {
          const [mu, nu] = [slotOf(state, "mu", name, grad.length), slotOf(state, "nu", name, grad.length)];
          fusedAdam(weights, grad, mu, nu, { beta1: betas[0], beta2: betas[1], bias, lr, decay, clip: 1 });
          continue;
        }
        average(grad, slotOf(state, "momentum", name, grad.length), momentum, nesterov);
        const [rows = 1, cols = 1] = shapeOfParameter(state, name);
        const update = newtonSchulz(grad, rows, cols, iterations);
        const factor = lr * muonFactor(matrixScale, rows, cols);
        for (let i = 0; i < weights.length; i++) {
          weights[i] = (weights[i] as number) * (1 - lr * decay) - factor * (update[i] as number);
        }
      }
    },
  });
  return { ...optimizer, graph: { name: "muon", options } };
}

function average(grad: Float32Array, buffer: Float32Array, momentum: number, nesterov: boolean): void {
  for (let i = 0; i < grad.length; i++) {
    const g = grad[i] as number;
    buffer[i] = (buffer[i] as number) + (g - (buffer[i] as number)) * (1 - momentum);
    const b = buffer[i] as number;
    grad[i] = nesterov ? g + (b - g) * momentum : b;
  }
}

/**
 * About U Vᵀ of the matrix's singular value decomposition: singular values end between 0.7 and 1.2.
 *
 * @param matrix `[rows, cols]`, row-major; not changed.
 */
export function newtonSchulz(matrix: Float32Array, rows: number, cols: number, iterations = 5): Float32Array {
  const [a, b, c] = NEWTON_SCHULZ;
  const tall = rows > cols;
  const [m, n] = tall ? [cols, rows] : [rows, cols];
  let x = tall ? transposed(matrix, rows, cols) : matrix.slice();
  const norm = Math.max(Math.sqrt(sumOfSquares(x)), 1e-7);
  for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) / norm;
  for (let iteration = 0; iteration < iterations; iteration++) {
    const gram = timesTranspose(x, x, m, m, n);
    // The Gram matrix is symmetric, so that its square is it times its transpose.
    const square = timesTranspose(gram, gram, m, m, m);
    for (let i = 0; i < gram.length; i++) gram[i] = b * (gram[i] as number) + c * (square[i] as number);
    const product = times(gram, x, m, n);
    for (let i = 0; i < x.length; i++) product[i] = a * (x[i] as number) + (product[i] as number);
    x = product;
  }
  return tall ? transposed(x, m, n) : x;
}

function transposed(data: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) out[j * rows + i] = data[i * cols + j] as number;
  }
  return out;
}

/** `[m, k] x [n, k]ᵀ`, each element summed in float64. */
function timesTranspose(x: Float32Array, y: Float32Array, m: number, n: number, k: number): Float32Array {
  const out = new Float32Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += (x[i * k + l] as number) * (y[j * k + l] as number);
      out[i * n + j] = sum;
    }
  }
  return out;
}

/** `[m, m] x [m, n]`, each row summed in float64. */
function times(left: Float32Array, x: Float32Array, m: number, n: number): Float32Array {
  const out = new Float32Array(m * n);
  const row = new Float64Array(n);
  for (let i = 0; i < m; i++) {
    row.fill(0);
    for (let l = 0; l < m; l++) {
      const factor = left[i * m + l] as number;
      for (let j = 0; j < n; j++) row[j] = (row[j] as number) + factor * (x[l * n + j] as number);
    }
    out.set(row, i * n);
  }
  return out;
}

function expression(pattern: string): RegExp {
  try {
    return new RegExp(pattern);
  } catch (cause) {
    throw new TunesmithError("config-invalid", `muon: adamFor '${pattern}' is not a regular expression`, {
      fix: "escape special characters",
      cause,
    });
  }
}
