import { ops } from "../../graph/index.js";
import type { VjpTable } from "../types.js";

export const markers: VjpTable = {
  "tunesmith.Keep": ({ dy }) => [dy],
  "tunesmith.CustomVjp": ({ node, dy }) => {
    const parts = ops.customParts(node);
    return [undefined, ...parts.vjp(parts, dy)];
  },
};
