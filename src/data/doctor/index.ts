export {
  type CheckOptions,
  type CheckPart,
  checkDataset,
  type DatasetCheck,
  type DropReason,
  type PartReport,
} from "./check.js";
export type { DuplicateOptions, DuplicateReport, Match, Matches } from "./duplicates.js";
export type { Lengths } from "./lengths.js";
export { type MaskedExample, type MaskedToken, maskRow } from "./mask.js";
export type { Finding, TokenReport } from "./tokens.js";
