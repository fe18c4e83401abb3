export { loadAll, loadStored, type StoredTensor, type TensorContainer } from "./stored.js";
export { openTorch, stateDictOf, type TorchFile } from "./torch/index.js";
