// Maps whose target is known: what a method computes at them, and what it finds when it is trained.
export { agreement, type Computed, compute, computer } from "./planted-computing.js";
export { type Learned, type LearnOptions, learn } from "./planted-learning.js";
export {
  gap,
  lowRank,
  norm,
  normals,
  outputsOf,
  type PlantedMap,
  plant,
  plus,
  shapeOf,
  times,
} from "./planted-maps.js";
export { disturb, numbersOf, type PlantedSites, start } from "./planted-sites.js";
