import { TunesmithError } from "../../errors/index.js";
import type { Dtype, Tensor, TensorData } from "../../tensor/index.js";

/** The plain parts of an ONNX Runtime tensor, common to both bindings and to messages between threads. */
export interface OrtTensorParts {
  readonly type: string;
  readonly data: TensorData;
  readonly dims: readonly number[];
}

export function toParts(name: string, tensor: Tensor): OrtTensorParts {
  if (tensor.dtype === "bfloat16") {
    throw new TunesmithError(
      "dtype-unsupported",
      `feed '${name}': ONNX Runtime's bindings take no bfloat16`,
      {
        fix: "convert it with toFloat32()",
      },
    );
  }
  return { type: tensor.dtype, data: tensor.data, dims: tensor.shape };
}

export const fromParts = (parts: OrtTensorParts): Tensor => ({
  dtype: parts.type as Dtype,
  shape: parts.dims,
  data: parts.type === "float16" ? rawBits(parts.data) : parts.data,
});

/** Engines that have Float16Array get it from the bindings; ours is the raw bits everywhere. */
function rawBits(data: TensorData): TensorData {
  if (data instanceof Uint16Array || !ArrayBuffer.isView(data)) return data;
  return new Uint16Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength / 2);
}

/** The last one is a tensor whose size does not fit the 32-bit address space of WebAssembly. */
const OUT_OF_MEMORY =
  /bad_alloc|failed to allocate memory|out of memory|OrtMemory|Array buffer allocation failed|SafeIntOnOverflow/i;

/** ONNX Runtime's messages as typed errors. */
export function ortError(error: unknown, doing: string): TunesmithError {
  if (error instanceof TunesmithError) return error;
  const text = error instanceof Error ? error.message : String(error);
  if (OUT_OF_MEMORY.test(text)) {
    const size = text.match(/buffer of size (\d+)/)?.[1];
    return new TunesmithError(
      "out-of-memory",
      `${doing}: out of memory${size ? ` asking for ${size} bytes` : ""}`,
      {
        fix: "use a smaller batch or length, turn on recomputation, or load a quantised base",
        cause: error,
      },
    );
  }
  const missing = /no available backend found|dynamically imported module/i.test(text);
  return new TunesmithError("runtime-failed", `${doing}: ${text}`, {
    cause: error,
    ...(missing
      ? { fix: "serve onnxruntime-web's files, and say where with configureRuntime({ wasmPaths })" }
      : {}),
  });
}
