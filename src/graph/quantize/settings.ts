import { TunesmithError } from "../../errors/index.js";
import type { CodeBits, NormalFloatLayout } from "../../tensor/index.js";

/**
 * How weights are kept: 8 bits per output channel, 4 bits in blocks, 4-bit NormalFloat in blocks as bitsandbytes has it, or
 * NormalFloat of 2, 3, 4 or 8 bits (`nf`). `int8-dynamic` also rounds activations to 8 bits while it runs and multiplies
 * integers, as files called `model_quantized.onnx` do.
 */
export type QuantizationKind = "int8" | "int8-dynamic" | "int4" | "nf4" | "nf";

/** How weights are quantised; what is left out takes the kind's default. */
export interface QuantizationOptions {
  readonly kind: QuantizationKind;
  /**
   * Weights that share a scale: int4 a power of two from 16 (default 32), nf4 an even number (default 64), nf a multiple of 8
   * (default 64). Not for int8.
   */
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
  /** nf: bits of a weight's code, 2, 3, 4 or 8. Default 3. */
  readonly bits?: CodeBits | undefined;
  /** nf: bits of a scale's code, 2, 3, 4 or 8. Default 8. */
  readonly scaleBits?: CodeBits | undefined;
  /** nf: scales that share a factor. Default 256. */
  readonly superBlock?: number | undefined;
  /** nf: type of those factors. Default float32. */
  readonly scaleDtype?: NormalFloatLayout["scaleDtype"] | undefined;
}

/** Settings after defaults; only those the kind has. Plain JSON data. */
export interface Quantization {
  readonly kind: QuantizationKind;
  readonly blockSize?: number;
  readonly symmetric?: boolean;
  readonly doubleQuant?: boolean;
  readonly activations?: "float" | "int8";
  /** Of `nf`, whose settings lack all of this where each matrix has its own. */
  readonly bits?: CodeBits;
  readonly scaleBits?: CodeBits;
  readonly superBlock?: number;
  readonly scaleDtype?: NormalFloatLayout["scaleDtype"];
}

const OWN: Readonly<Record<QuantizationKind, readonly string[]>> = {
  int8: [],
  "int8-dynamic": [],
  int4: ["blockSize", "symmetric", "activations"],
  nf4: ["blockSize", "doubleQuant"],
  nf: ["bits", "blockSize", "scaleBits", "superBlock", "scaleDtype"],
};

/** Settings in full. Throws `config-invalid` for an unknown kind, an option of another kind, or a size the kernels lack. */
export function quantizationOf(given: QuantizationKind | QuantizationOptions): Quantization {
  const options: QuantizationOptions = typeof given === "string" ? { kind: given } : given;
  const { kind } = options;
  const own = OWN[kind];
  if (!own) throw invalid(`quantisation '${kind}' is unknown`, `use ${Object.keys(OWN).join(", ")}`);
  const known = Object.values(OWN).flat() as (keyof QuantizationOptions)[];
  const foreign = known.find((name) => options[name] !== undefined && !own.includes(name));
  if (foreign) {
    throw invalid(
      `${kind} has no option '${foreign}'`,
      own.length > 0 ? `it has ${own.join(", ")}` : "it has none",
    );
  }
  if (kind === "int8" || kind === "int8-dynamic") return { kind };
  if (kind === "nf") return { kind, ...normalFloat(options) };
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

const CODE_BITS: readonly number[] = [2, 3, 4, 8];

function normalFloat({
  bits = 3,
  blockSize = 64,
  scaleBits = 8,
  superBlock = 256,
  scaleDtype = "float32",
}: QuantizationOptions): NormalFloatLayout {
  for (const [name, value] of Object.entries({ bits, scaleBits }))
    if (!CODE_BITS.includes(value)) throw invalid(`nf: ${name} is ${value}`, "use 2, 3, 4 or 8");
  if (!Number.isInteger(blockSize) || blockSize < 8 || blockSize % 8 !== 0)
    throw invalid(`nf: a block size of ${blockSize} is not possible`, "use a multiple of 8 such as 64");
  if (!Number.isInteger(superBlock) || superBlock < 1)
    throw invalid(`nf: superBlock is ${superBlock}`, "use a whole number such as 256");
  if (!["float16", "bfloat16", "float32"].includes(scaleDtype))
    throw invalid(`nf: scaleDtype is ${scaleDtype}`, "use float16, bfloat16 or float32");
  return { bits, blockSize, scaleBits, superBlock, scaleDtype };
}

/** The layout of NormalFloat that settings of kind `nf` name. */
export function layoutOfNormalFloat(settings: Quantization): NormalFloatLayout {
  const { bits, blockSize, scaleBits, superBlock, scaleDtype } = settings;
  if (bits && blockSize && scaleBits && superBlock && scaleDtype)
    return { bits, blockSize, scaleBits, superBlock, scaleDtype };
  throw invalid(
    `${describeQuantization(settings)} is no layout`,
    "give bits, blockSize, scaleBits, superBlock and scaleDtype",
  );
}

const invalid = (message: string, fix: string) => new TunesmithError("config-invalid", message, { fix });

/** Settings as people write them: `int4, blocks of 32`. */
export const describeQuantization = ({
  kind,
  blockSize,
  symmetric,
  doubleQuant,
  bits,
  scaleBits,
}: Quantization): string =>
  [
    kind,
    ...(kind === "nf" ? [bits ? `${bits} bits` : "bits by module"] : []),
    ...(blockSize ? [`blocks of ${blockSize}`] : []),
    ...(symmetric === false ? ["zero points"] : []),
    ...(doubleQuant || scaleBits ? [`scales in ${scaleBits ?? 8} bits`] : []),
  ].join(", ");
