export { openSafetensors, type TensorFile } from "./reader.js";
export { openSharded, type ShardedOptions, writeSharded } from "./sharded.js";
export {
  encodeSafetensors,
  type LazyTensor,
  type SafetensorsOptions,
  type WritableTensor,
  writeSafetensors,
} from "./writer.js";
