import { type Node, reach, type Value, withScope } from "../graph/index.js";
import { type Outputs, valuesIn } from "../models/index.js";

/** Where the outputs of a first factor are found again in a graph: the scope they are laid in, below their module's. */
const TAP = ".lora_A";

/** Lays the outputs of a method's A, so that they can be found again in whatever the pass is rewritten into. */
export const tapped = (path: string, lay: () => Value): Value => withScope(`${path}${TAP}`, lay);

/** Outputs of A in a pass by module path, as that kind of map gives them; of several adapters at a module, the last one's. */
export function tapsOf(outputs: Outputs): Map<string, Value> {
  const last = new Map<string, Node>();
  for (const node of reach(valuesIn(outputs)).nodes) {
    if (!node.scope.endsWith(TAP)) continue;
    const path = node.scope.slice(0, -TAP.length);
    const known = last.get(path);
    if (!known || node.id > known.id) last.set(path, node);
  }
  return new Map([...last].map(([path, node]) => [path, node.outputs[0] as Value]));
}
