import { TunesmithError } from "../errors/index.js";
import { type Model, probeOutputs } from "../models/index.js";
import type { SessionOptions } from "../runtime/index.js";
import { firstNonFinite } from "../training/index.js";
import { type Adapted, adaptedModel } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { changesOf } from "./effective.js";
import { fingerprint, fingerprintHash, touchedWeights } from "./fingerprint.js";
import {
  checksum,
  largest,
  largestDifference,
  type Measured,
  measure,
  type TensorChangeNorm,
} from "./measure.js";

export type ReceiptAction = "adapt" | "load" | "merge" | "export" | "save";

/** What an operation on adapters did, as plain JSON data. */
export interface Receipt {
  readonly action: ReceiptAction;
  /** Name of the adapter; several of them joined by `+` for a merge. */
  readonly adapter: string;
  readonly method: string;
  /** Modules the adapter acts on: adapted sites, modules trained whole, embeddings with trained rows. */
  readonly sitesMatched: number;
  /** Those of them with a tensor that now differs from the base's. */
  readonly sitesChanged: number;
  /** One entry per tensor that the adapter may change, in execution order. */
  readonly sites: readonly TensorChangeNorm[];
  readonly trainableParameters: number;
  /** Numbers in the base and in the adapter. */
  readonly totalParameters: number;
  /** Frobenius norm of the change over all tensors. */
  readonly changeNorm: number;
  /** Hash of the base tensors that the adapter acts on. */
  readonly baseFingerprint: string;
  /** Logits of a fixed row of ids: the first 16 hex digits of their SHA-256, and how far they moved. */
  readonly logits: { readonly before: string; readonly after: string; readonly maxDifference: number };
  /** What a merge into a quantised base did with it. */
  readonly quantized?: QuantizedMergeReport;
  /** What the user should know although nothing failed. */
  readonly warnings: readonly string[];
}

/** What became of quantised weights in a merge, and what that cost. */
export interface QuantizedMergeReport {
  readonly mode: "keep" | "requantize" | "dequantize";
  /** Settings as people write them. */
  readonly settings: string;
  /** Of re-quantised modules. */
  readonly sites: readonly RequantizedSite[];
  /** How far the logits of a fixed row are from those of the model with the adapter apart, over the largest logit. */
  readonly logitError: number;
}

export interface RequantizedSite {
  readonly path: string;
  /** Frobenius norm of what rounding lost, over that of the exact merged weight. */
  readonly relativeError: number;
  /** Which part of the adapter's change is left: ⟨change made, change wanted⟩ / ‖change wanted‖²; 1 is all of it. */
  readonly survived: number;
  /** The change was smaller than half a step everywhere: the weight is what it was. */
  readonly unchanged: boolean;
}

/** A model with the receipt of the operation that made it. */
export interface Receipted {
  readonly receipt: Receipt;
}

export interface ReceiptOptions {
  /** Which adapter; default: the last active one. */
  readonly adapter?: string;
  /** What the receipt says was done. Default "adapt". */
  readonly action?: ReceiptAction;
  readonly warnings?: readonly string[];
  readonly session?: SessionOptions;
}

/**
 * Measures what an adapter does to its model, by one graph that reads the weights where they lie: the change of every
 * tensor (of this adapter alone, on the base), and the logits of a fixed row of ids before and after (with the adapters
 * active below it). Two short forward passes and one pass over the touched weights: under half a second for a model of
 * 124M parameters.
 *
 * Throws `adapter-invalid` for an unknown name, or a tensor or a change that is not finite.
 *
 * @example
 * ```ts
 * import { adapt, formatReceipt, lora, receiptOf } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await adapt(await loadModel("path/to/model"), lora({ rank: 8 }));
 * console.log(formatReceipt(await receiptOf(model)));
 * ```
 */
export async function receiptOf(model: Adapted, options: ReceiptOptions = {}): Promise<Receipt> {
  const name = options.adapter ?? model.active.at(-1) ?? [...model.adapters.keys()].at(-1) ?? "";
  const at = model.active.indexOf(name);
  const below = model.active.slice(0, Math.max(at, 0));
  const after = adaptedModel(model.base, model.adapters, [...below, name]);
  const before = adaptedModel(model.base, model.adapters, below);
  const adapter = model.adapters.get(name) as Adapter;
  checkTensors(adapter);
  const measured = await measure({
    changes: changesOf(probeOutputs(model.base), [adapter]),
    passes: { before, after },
    parameters: after.parameters,
    // A file holds an adapter at full strength, whatever `setScale` says at the moment.
    fullStrength: options.action === "save" ? [adapter] : [],
    tail: adapter.adaptation.method.probeTail?.(adapter.adaptation.config) ?? [],
    session: options.session,
  });
  return assembleReceipt(model.base, [adapter], measured, options);
}

/** Compares a merged model with the base and with the adapted model it came from. Throws as `merge`. */
export async function mergeReceipt(
  model: Adapted,
  merged: Model,
  options: {
    readonly allowNoEffect?: boolean | undefined;
    readonly quantized?: Omit<QuantizedMergeReport, "logitError">;
  },
): Promise<Receipt> {
  const used = model.active.flatMap((name) => model.adapters.get(name) ?? []);
  for (const adapter of used) checkTensors(adapter);
  const measured = await measure({
    changes: changesOf(probeOutputs(model.base), used),
    passes: { before: model.base, after: merged, adapted: model },
    parameters: model.parameters,
  });
  const { after, adapted } = measured.logits;
  const [difference, scale] = [largestDifference(after, adapted), largest(adapted)];
  const { quantized } = options;
  const isRounded = quantized?.mode === "requantize";
  if (!isRounded && !(difference <= 1e-4 * scale)) {
    throw new TunesmithError(
      "numerical-failure",
      `merged logits differ from the adapted model's by ${difference.toExponential(2)} (largest logit ${scale.toPrecision(3)})`,
      { fix: "keep the adapter apart: its update does not survive being added to the weights in float32" },
    );
  }
  const exact = await assembleReceipt(model.base, used, measured, {
    action: "merge",
    warnings: quantized ? roundingWarnings(quantized) : [],
  });
  const report = quantized && { ...quantized, logitError: difference / scale };
  const lost = new Set(quantized?.sites.flatMap(({ path, unchanged }) => (unchanged ? [path] : [])));
  const changed = measured.changes.filter(({ path, changeNorm }) => changeNorm > 0 && !lost.has(path));
  const sitesChanged = new Set(changed.map(({ path }) => path)).size;
  const receipt = report ? { ...exact, sitesChanged, quantized: report } : exact;
  if (!options.allowNoEffect) checkEffect(receipt);
  return receipt;
}

/** The average share of the changes that rounding left. */
const shareLeft = ({ sites }: Pick<QuantizedMergeReport, "sites">): number =>
  sites.reduce((sum, { survived }) => sum + survived, 0) / Math.max(1, sites.length);

function roundingWarnings(report: Pick<QuantizedMergeReport, "sites">): string[] {
  const { sites } = report;
  const same = sites.filter(({ unchanged }) => unchanged).map(({ path }) => path);
  const warnings: string[] = [];
  if (same.length > 0) {
    const shown = same.slice(0, 3).join(", ");
    warnings.push(
      `the change of ${same.length} of ${sites.length} quantised modules is below half a step and left no trace (${shown})`,
    );
  }
  if (sites.length > 0 && shareLeft(report) < 0.5)
    warnings.push(
      `rounding left ${(100 * shareLeft(report)).toPrecision(2)} % of the change: keep the adapter apart, or give a calibration`,
    );
  return warnings;
}

/** Throws `adapter-no-effect` when nothing at all changed. */
export function checkEffect(receipt: Receipt): void {
  if (receipt.sitesChanged > 0) return;
  if (receipt.quantized?.mode === "requantize") {
    throw new TunesmithError(
      "adapter-no-effect",
      `adapter '${receipt.adapter}': rounding the merged weights again undoes its change in all ${receipt.sitesMatched} modules`,
      {
        fix: 'merge with quantized: "keep" or "dequantize" (--quantized), or train it for longer',
        details: { adapter: receipt.adapter, action: receipt.action },
      },
    );
  }
  throw new TunesmithError(
    "adapter-no-effect",
    `adapter '${receipt.adapter}' changes none of its ${receipt.sitesMatched} modules`,
    {
      fix: "train it first, or look at its scale; pass { allowNoEffect: true } if that is meant",
      details: { adapter: receipt.adapter, action: receipt.action },
    },
  );
}

/** Throws `adapter-invalid` naming the first tensor with a NaN or an infinity. */
function checkTensors(adapter: Adapter): void {
  const tensors = [...adapter.parameters].flatMap(([name, { tensor }]) =>
    tensor.dtype === "float32" ? [[name, tensor.data as Float32Array] as const] : [],
  );
  const bad = firstNonFinite(new Map(tensors));
  if (!bad) return;
  throw new TunesmithError("adapter-invalid", `tensor '${bad.name}' is ${bad.value} at index ${bad.index}`, {
    fix: "the file is damaged or the training that made it diverged; use an earlier checkpoint",
    details: bad,
  });
}

async function assembleReceipt(
  base: Model,
  adapters: readonly Adapter[],
  measured: Measured,
  options: ReceiptOptions,
): Promise<Receipt> {
  const { before, after } = measured.logits;
  const own = adapters.flatMap((adapter) =>
    [...adapter.parameters.values()].filter((entry) => entry !== adapter.gate),
  );
  const count = (entries: Iterable<{ readonly data: { readonly length: number } }>) =>
    [...entries].reduce((sum, { data }) => sum + data.length, 0);
  const changed = new Set(measured.changes.filter((entry) => entry.changeNorm > 0).map(({ path }) => path));
  const unseen = adapters.filter(({ adaptation: { method, config } }) => method.unmergeable?.(config));
  const maxDifference = largestDifference(before, after);
  // An update that no weight shows is seen in the logits alone.
  for (const path of unseen.flatMap(({ sites }) => [...sites.keys()]))
    if (maxDifference > 0) changed.add(path);
  const names = adapters.flatMap(touchedWeights);
  return {
    action: options.action ?? "adapt",
    adapter: adapters.map(({ name }) => name).join("+"),
    method: [...new Set(adapters.map(({ adaptation }) => adaptation.method.name))].join("+"),
    sitesMatched: new Set([...measured.changes.map(({ path }) => path), ...changed]).size,
    sitesChanged: changed.size,
    sites: measured.changes,
    trainableParameters: count(own.filter(({ trainable }) => trainable).map(({ tensor }) => tensor)),
    totalParameters: baseSize(base) + count(own.map(({ tensor }) => tensor)),
    changeNorm: Math.hypot(...measured.changes.map(({ changeNorm }) => changeNorm)),
    baseFingerprint: await fingerprintHash(await fingerprint(base, names)),
    logits: {
      before: await checksum(before),
      after: await checksum(after),
      maxDifference,
    },
    warnings: options.warnings ?? [],
  };
}

const baseSize = (base: Model): number =>
  [...new Set(base.weights.values())].reduce(
    (sum, { shape }) => sum + (shape as number[]).reduce((product, dim) => product * dim, 1),
    0,
  );

/** A receipt as a few lines for a terminal. */
export function formatReceipt(receipt: Receipt): string {
  const { sitesMatched, sitesChanged, trainableParameters, totalParameters, logits } = receipt;
  const share = ((100 * trainableParameters) / totalParameters).toPrecision(3);
  const moved = receipt.sites.toSorted((a, b) => b.changeNorm - a.changeNorm)[0];
  const most = moved && moved.changeNorm > 0 ? `, most at ${moved.path}.${moved.tensor}` : "";
  return [
    `${receipt.action} '${receipt.adapter}' (${receipt.method}): ${sitesChanged} of ${sitesMatched} modules changed`,
    `  parameters  ${trainableParameters.toLocaleString("en")} trainable of ${totalParameters.toLocaleString("en")} (${share} %)`,
    `  change      ${receipt.changeNorm.toPrecision(4)} (Frobenius norm${most})`,
    `  logits      ${logits.before} -> ${logits.after}, largest difference ${logits.maxDifference.toPrecision(4)}`,
    `  base        ${receipt.baseFingerprint}`,
    ...(receipt.quantized ? [quantizedLine(receipt.quantized)] : []),
    ...receipt.warnings.map((warning) => `  warning     ${warning}`),
  ].join("\n");
}

function quantizedLine(report: QuantizedMergeReport): string {
  const { mode, settings, sites, logitError } = report;
  const what = { keep: "kept, the adapter apart", requantize: "rounded again", dequantize: "made floats" }[
    mode
  ];
  const percent = (share: number) => `${(100 * share).toPrecision(3)} %`;
  const worst = sites.toSorted((a, b) => b.relativeError - a.relativeError)[0];
  const loss = worst
    ? `; ${percent(shareLeft(report))} of the change left, weights off by up to ${percent(worst.relativeError)} (${worst.path})`
    : "";
  return `  quantised   ${settings}: ${what}; logits off by ${percent(logitError)}${loss}`;
}
