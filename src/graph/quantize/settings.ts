import { TunesmithError } from "../../errors/index.js";

/**
 * How weights are kept: 8 bits per output channel, 4 bits in blocks, or 4-bit NormalFloat in blocks. `int8-dynamic` also rounds
 * activations to 8 bits while it runs and multiplies integers, as files called `model_quantized.onnx` do.
 */
export type QuantizationKind = "int8" | "int8-dynamic" | "int4" | "nf4";

/** How weights are quantised; what is left out takes the kind's default. */
export interface QuantizationOptions {
  readonly kind: QuantizationKind;
  /** Weights that share a scale: int4 a power of two from 16 (default 32), nf4 an even number (default 64). Not for int8. */
  readonly blockSize?: number | undefined;
  /** int4 without zero points. Default true. */
  readonly symmetric?: boolean | undefined;
  /** nf4: quantise the scales too, as QLoRA does. Default true. */
  readonly doubleQuant?: boolean | undefined;
  /**
   * int4: `int8` rounds activations to 8 bits inside the product (ONNX Runtime's accuracy level 4): faster generation, less
   * exact. Default `float`.
   */
  readonly activations?: "float" | "int8" | undefined;
}

/** Settings after defaults; only those the kind has. Plain JSON data. */
export interface Quantization {
  readonly kind: QuantizationKind;
  readonly blockSize?: number;
  readonly symmetric?: boolean;
  readonly doubleQuant?: boolean;
  readonly activations?: "float" | "int8";
}

const OWN: Readonly<Record<QuantizationKind, readonly string[]>> = {
  int8: [],
  "int8-dynamic": [],
  int4: ["blockSize", "symmetric", "activations"],
  nf4: ["blockSize", "doubleQuant"],
};

/** Settings in full. Throws `config-invalid` for an unknown kind, an option of another kind, or a size the kernels lack. */
export function quantizationOf(given: QuantizationKind | QuantizationOptions): Quantization {
  const options: QuantizationOptions = typeof given === "string" ? { kind: given } : given;
  const { kind } = options;
  const own = OWN[kind];
  if (!own) throw invalid(`quantisation '${kind}' is unknown`, `use ${Object.keys(OWN).join(", ")}`);
  const known = ["blockSize", "symmetric", "doubleQuant", "activations"] as const;
  const foreign = known.find((name) => options[name] !== undefined && !own.includes(name));
  if (foreign) {
    throw invalid(
      `${kind} has no option '${foreign}'`,
      own.length > 0 ? `it has ${own.join(", ")}` : "it has none",
    );
  }
  if (kind === "int8" || kind === "int8-dynamic") return { kind };
  const { blockSize = kind === "int4" ? 32 : 64 } = options;
  const fits =
    kind === "int4" ? [16, 32, 64, 128, 256].includes(blockSize) : blockSize >= 2 && blockSize % 2 === 0;
  if (!fits || !Number.isInteger(blockSize)) {
    throw invalid(
      `${kind}: a block size of ${blockSize} is not possible`,
      kind === "int4" ? "use 16, 32, 64, 128 or 256" : "use an even number such as 64",
    );
  }
  if (kind === "nf4") return { kind, blockSize, doubleQuant: options.doubleQuant ?? true };
  return {
    kind,
    blockSize,
    symmetric: options.symmetric ?? true,
    activations: options.activations ?? "float",
  };
}

const invalid = (message: string, fix: string) => new TunesmithError("config-invalid", message, { fix });

/** Settings as people write them: `int4, blocks of 32`. */
export const describeQuantization = ({ kind, blockSize, symmetric, doubleQuant }: Quantization): string =>
  [
    kind,
    ...(blockSize ? [`blocks of ${blockSize}`] : []),
    ...(symmetric === false ? ["zero points"] : []),
    ...(doubleQuant ? ["scales in 8 bits"] : []),
  ].join(", ");
