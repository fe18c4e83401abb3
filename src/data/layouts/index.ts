export { detectLayout } from "./detect.js";
export { type FieldName, type FieldNames, isFields } from "./fields.js";
export { alpacaPrompt, readRow } from "./read.js";
