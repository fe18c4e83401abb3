/**
 * Children that architectures define in another order than they run in, in the order of their definition; only where a
 * module has all of them. BART and its kin (OPT, Whisper, CLIP), T5, CLIP, ResNet.
 */
const DEFINED: readonly (readonly string[])[] = [
  ["k_proj", "v_proj", "q_proj", "out_proj"],
  ["q", "k", "v", "o", "relative_attention_bias"],
  ["text_model", "vision_model"],
  ["shortcut", "layer"],
];

interface Tree {
  readonly children: Map<string, Tree>;
}

/**
 * The places of modules in the order that their model defines them, given all of them in the order that they run in: what
 * formats count by that store a seed or a number of a group in the place of names.
 */
export function definitionOrder(paths: readonly string[]): ReadonlyMap<string, number> {
  const root: Tree = { children: new Map() };
  for (const path of paths) {
    let at = root;
    for (const name of path.split(".")) {
      const next = at.children.get(name) ?? { children: new Map() };
      at.children.set(name, next);
      at = next;
    }
  }
  const order = new Map<string, number>();
  const known = new Set(paths);
  const visit = ({ children }: Tree, prefix?: string) => {
    for (const name of namesInOrder([...children.keys()])) {
      const path = prefix === undefined ? name : `${prefix}.${name}`;
      if (known.has(path)) order.set(path, order.size);
      visit(children.get(name) as Tree, path);
    }
  };
  visit(root);
  return order;
}

function namesInOrder(names: readonly string[]): readonly string[] {
  let ordered = names;
  for (const defined of DEFINED) {
    if (!defined.every((name) => ordered.includes(name))) continue;
    const [first] = ordered.flatMap((name, at) => (defined.includes(name) ? [at] : []));
    const others = (part: readonly string[]) => part.filter((name) => !defined.includes(name));
    ordered = [...others(ordered.slice(0, first)), ...defined, ...others(ordered.slice(first))];
  }
  return ordered;
}
