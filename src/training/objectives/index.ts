export { type DistillationOptions, distillation, distillationOptions } from "./distillation.js";
export { type Answer, type GrpoOptions, grpo, grpoOptions } from "./grpo.js";
export { type KtoOptions, kto, ktoOptions } from "./kto.js";
export {
  type FeedbackExample,
  type Judged,
  type PairExample,
  tokenizeFeedback,
  tokenizePairs,
} from "./pairs.js";
export { groupAdvantages, type PolicyScores, policyLoss } from "./policy-loss.js";
export { cpo, type DpoOptions, dpo, orpo, type PreferenceData, simpo } from "./preference.js";
export {
  cpoLoss,
  cpoOptions,
  dpoLoss,
  dpoOptions,
  orpoLoss,
  orpoOptions,
  type PairScores,
  type ReferenceScores,
  simpoLoss,
  simpoOptions,
} from "./preference-losses.js";
export { type ReferenceOptions, type RowScorer, rowScorer, withReference } from "./reference.js";
export {
  describeObjective,
  type ObjectiveContext,
  type ObjectiveEntry,
  objectiveForLayout,
  objectiveNamed,
  objectiveNames,
  type PreparedObjective,
  prepareObjective,
  teacherLogitsOf,
} from "./registry.js";
export {
  openTeacherLogits,
  type TeacherLogits,
  type TeacherRow,
  type WriteTeacherOptions,
  writeTeacherLogits,
} from "./teacher-logits.js";
