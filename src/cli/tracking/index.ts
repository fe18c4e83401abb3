export { openRunStore } from "./open.js";
