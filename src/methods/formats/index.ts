export {
  DIFFUSERS_METADATA_KEY,
  type DiffusersLora,
  fromDiffusers,
  toDiffusers,
} from "./diffusers.js";
export {
  ADAPTER_FORMATS,
  type AdapterFile,
  type AdapterFileOptions,
  type AdapterFormat,
  readAdapterFile,
  writeAdapterFile,
} from "./files.js";
export {
  fromGgufLora,
  type GgufLora,
  type GgufLoraOptions,
  ggufArchitectures,
  type ToGgufLoraOptions,
  toGgufLora,
} from "./gguf.js";
export { type FromKohyaOptions, fromKohya, toKohya } from "./kohya.js";
export {
  type FromLoralibOptions,
  fromLoralib,
  type LoralibAdapter,
  type ToLoralibOptions,
  toLoralib,
} from "./loralib.js";
export { fromMlx, type MlxAdapter, type MlxOptions, type ToMlxOptions, toMlx } from "./mlx.js";
export type { NamedTensors, PeftLoraConfig, PeftTensors } from "./parts.js";
