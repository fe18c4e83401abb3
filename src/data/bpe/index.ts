export { type BpeTokenizerJson, type TrainBpeOptions, trainBpe } from "./train.js";
