export { detectLayout } from "./detect.js";
export { FIELD_NAMES, type FieldName, type FieldNames, isFields } from "./fields.js";
export { alpacaPrompt, readRow } from "./read.js";
