export { openTorch, type TorchFile } from "./open.js";
export { stateDictOf } from "./state-dict.js";
