export {
  encodeGguf,
  type GgufFile,
  type GgufScalar,
  type GgufValue,
  openGguf,
  writeGguf,
} from "./gguf/index.js";
export { type JsonTensors, parseJsonTensors } from "./json-tensors.js";
export { encodeNpy, type NpyFile, type NpyOptions, openNpy } from "./npy.js";
export { encodeNpz, type NpzFile, type NpzOptions, openNpz, writeNpz } from "./npz.js";
export {
  encodeOnnxAdapter,
  type OnnxAdapterFile,
  type OnnxAdapterOptions,
  openOnnxAdapter,
  writeOnnxAdapter,
} from "./onnx-adapter.js";
export { loadAll, loadStored, type StoredTensor, type TensorContainer } from "./stored.js";
export { openTorch, stateDictOf, type TorchFile } from "./torch/index.js";
