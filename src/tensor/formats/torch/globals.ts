import { TunesmithError } from "../../../errors/index.js";
import { byteLengthOf, type Dtype } from "../../dtype.js";
import { quote } from "../../safetensors/header.js";
import type { LazyTensor } from "../../safetensors/index.js";
import { loadStored, type StoredTensor } from "../stored.js";
import { spanOf } from "../strided.js";
import { numpyCalls, setNumpyState } from "./numpy.js";
import type { PickleGlobal, PickleHost } from "./pickle.js";

/** A typed storage class; `dtype` is undefined for untyped bytes. */
export interface StorageType {
  readonly storageType: string;
  readonly dtype: Dtype | undefined;
}

/** A tensor of the file; its storage is located when it is loaded. */
export interface PickledTensor extends LazyTensor {
  readonly kind: "tensor";
  readonly storage: PickledStorage;
  readonly dtype: Dtype;
  /** In elements. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** What a persistent id names. */
export interface PickledStorage {
  readonly kind: "storage";
  readonly key: string;
  readonly type: StorageType;
  /** As announced: elements of the type, bytes for untyped storages. */
  readonly elements: number;
  /** Where a legacy view begins inside the storage it shares, in elements. */
  readonly start: number;
}

const STORAGE: Readonly<Record<string, Dtype>> = {
  DoubleStorage: "float64",
  FloatStorage: "float32",
  HalfStorage: "float16",
  BFloat16Storage: "bfloat16",
  LongStorage: "int64",
  IntStorage: "int32",
  ShortStorage: "int16",
  CharStorage: "int8",
  ByteStorage: "uint8",
  BoolStorage: "bool",
};

const DTYPE: Readonly<Record<string, Dtype>> = {
  float64: "float64",
  float32: "float32",
  float16: "float16",
  bfloat16: "bfloat16",
  int64: "int64",
  int32: "int32",
  int16: "int16",
  int8: "int8",
  uint64: "uint64",
  uint32: "uint32",
  uint16: "uint16",
  uint8: "uint8",
  bool: "bool",
};

const own = <T>(table: Readonly<Record<string, T>>, key: string): T | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined;

/** Finds the values of a tensor in the file. */
export type Locate = (tensor: PickledTensor) => Promise<StoredTensor>;

/**
 * The host for checkpoints of PyTorch.
 *
 * @param file Names the file in errors.
 * @param locate Is asked when a tensor is loaded, after the pickle has been read.
 */
export function torchHost(file: string, locate: Locate): PickleHost {
  const bad = (why: string) =>
    new TunesmithError("file-corrupt", `${file}: ${why}`, { fix: "copy or download the file again" });
  const calls = callsOf({ file, bad, locate });
  return {
    find: (module, name) => findGlobal(calls, module, name),
    persistent: (id) => storageOf(id, bad),
    setState: (target, state) => setNumpyState(target, state, bad),
  };
}

type Calls = Readonly<Record<string, (args: unknown[]) => unknown>>;

function findGlobal(calls: Calls, module: string, name: string): PickleGlobal | undefined {
  const full = `${module}.${name}`;
  const call = own(calls, full);
  if (call) return { call };
  if (module === "torch" && own(DTYPE, name)) return { value: full };
  // Storages of data that is not read are refused where a tensor uses one, by its number format.
  if (
    (module === "torch" || module === "torch.cuda") &&
    /^[A-Z]\w*Storage$/.test(name) &&
    name !== "UntypedStorage"
  ) {
    if (own(STORAGE, name) || /^(Complex|Q)/.test(name)) {
      return { value: { storageType: name, dtype: own(STORAGE, name) } satisfies StorageType };
    }
  }
  if (/^torch(\.storage)?$/.test(module) && /^_?UntypedStorage$/.test(name)) {
    return { value: { storageType: "UntypedStorage", dtype: undefined } satisfies StorageType };
  }
  return undefined;
}

type Bad = (why: string) => TunesmithError;

interface Context {
  readonly file: string;
  readonly bad: Bad;
  readonly locate: Locate;
}

function callsOf(context: Context): Calls {
  const { bad } = context;
  const map = (args: unknown[]) => ordered(args, bad);
  const v2 = (args: unknown[]) => rebuild(args, context);
  const first = (args: unknown[]) => args[0];
  return {
    "collections.OrderedDict": map,
    "collections.Counter": (args) => (args[0] instanceof Map ? args[0] : map(args)),
    "builtins.set": (args) => new Set(list(args[0], bad)),
    "__builtin__.set": (args) => new Set(list(args[0], bad)),
    "torch.Size": (args) => [...list(args[0], bad)],
    "torch.device": (args) => args.map(String).join(":"),
    "torch._utils._rebuild_tensor": v2,
    "torch._utils._rebuild_tensor_v2": v2,
    "torch._utils._rebuild_tensor_v3": (args) => rebuild(args, context, args[6]),
    "torch._utils._rebuild_parameter": first,
    "torch._utils._rebuild_parameter_with_state": first,
    "torch.nn.parameter.Parameter": first,
    "torch.nn.parameter.Buffer": first,
    "torch._tensor._rebuild_from_type_v2": (args) => fromType(args, bad),
    "torch.Tensor": first,
    ...numpyCalls(bad),
  };
}

function list(value: unknown, bad: Bad): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw bad("a list is expected where there is none");
}

function ordered(args: unknown[], bad: Bad): Map<unknown, unknown> {
  if (args.length === 0) return new Map();
  return new Map(
    list(args[0], bad).map((pair): [unknown, unknown] => {
      const [key, value] = list(pair, bad);
      return [key, value];
    }),
  );
}

/** A tensor with Python attributes: `(function, type, arguments, state)`; the attributes are dropped. */
function fromType(args: unknown[], bad: Bad): unknown {
  const make = args[0] as { call?: unknown } | undefined;
  if (typeof make === "object" && make !== null && typeof make.call === "function") {
    const made: unknown = make.call([...list(args[2], bad)]);
    return made;
  }
  throw bad("a tensor is made by something that is no function");
}

function rebuild(args: unknown[], context: Context, typeName?: unknown): PickledTensor {
  const { file, bad, locate } = context;
  const [storage, offset, shape, strides] = args;
  if (!isStorage(storage)) throw bad("a tensor without a storage");
  const dtype =
    typeName === undefined ? storage.type.dtype : own(DTYPE, String(typeName).replace(/^torch\./, ""));
  if (dtype === undefined) throw unsupported(file, typeName ?? storage.type.storageType);
  const counts = (value: unknown) =>
    list(value, bad).map((item) => {
      if (typeof item === "number" && Number.isSafeInteger(item)) return item;
      throw bad("a shape or stride that is no number");
    });
  const start = counts([offset])[0] as number;
  const made: PickledTensor = {
    kind: "tensor",
    storage,
    dtype,
    offset: start + storage.start,
    shape: counts(shape),
    strides: counts(strides),
    load: async () => loadStored(await locate(made)),
  };
  spanOf(made, storageElements(storage, dtype), `${file}: a tensor`);
  return made;
}

/** Elements of `dtype` in a storage: untyped ones announce bytes. */
export function storageElements(storage: PickledStorage, dtype: Dtype): number {
  const unit = storage.type.dtype === undefined ? 1 : byteLengthOf(storage.type.dtype, 1);
  return Math.floor((storage.elements * unit) / byteLengthOf(dtype, 1));
}

function unsupported(file: string, type: unknown): TunesmithError {
  return new TunesmithError("dtype-unsupported", `${file}: a tensor is of type ${quote(String(type))}`, {
    fix: "convert it to float32, float16 or bfloat16; complex, quantised and 8-bit float tensors are not read",
    details: { file },
  });
}

/** `("storage", type, key, device, elements[, view])`; a legacy view is `(key, offset, elements)` or none. */
function storageOf(id: unknown, bad: Bad): PickledStorage {
  const [kind, type, key, , elements, view] = list(id, bad);
  const typed = type as StorageType | undefined;
  if (kind !== "storage" || typeof typed !== "object" || typed === null || !("storageType" in typed)) {
    throw bad("an external object that is no storage");
  }
  if (typeof elements !== "number" || !Number.isSafeInteger(elements) || elements < 0) {
    throw bad("a storage without a length");
  }
  const start = Array.isArray(view) ? view[1] : 0;
  if (typeof start !== "number" || !Number.isSafeInteger(start) || start < 0)
    throw bad("a damaged storage view");
  return { kind: "storage", key: String(key), type: typed, elements, start };
}

export function isStorage(value: unknown): value is PickledStorage {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "storage";
}

export function isPickledTensor(value: unknown): value is PickledTensor {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "tensor";
}
