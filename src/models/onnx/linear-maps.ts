import {
  decompose,
  dimMul,
  type Graph,
  makeNode,
  type Node,
  ops,
  rewrite,
  type Value,
  withScope,
} from "../../graph/index.js";

/** Fused operators that hide weights an adapter may want, or the sum that is the residual stream. */
const HIDING = new Set([
  "Attention",
  "EmbedLayerNormalization",
  "SkipLayerNormalization",
  "SkipSimplifiedLayerNormalization",
]);

/**
 * The graph with its linear maps in plain sight, as products with a constant: fused operators that contain weights are
 * taken apart, weights stored transposed (`MatMul(x, Transpose(W))`, a tied head) are used as they are stored, and
 * `Identity` nodes between a weight and its use vanish.
 */
export function exposeLinearMaps(graph: Graph): Graph {
  const open = decompose(graph, (node) => node.domain === "com.microsoft" && HIDING.has(node.op));
  return rewrite(open, {
    visit(node, inputs) {
      const [x, weight] = inputs;
      if (node.domain !== "") return undefined;
      if (node.op === "Identity" && x) return [x];
      const module = node.name === undefined ? moduleOf(node) : undefined;
      if (module !== undefined && module !== node.scope) {
        return makeNode(node.op, inputs, node.attrs, { scope: module, outputs: node.outputs.length }).outputs;
      }
      const stored = weight && transposedConstant(weight);
      if (!x || !stored) return undefined;
      if (node.op === "Gemm") return turnedGemm(node, inputs, stored);
      return node.op === "MatMul" && x.shape.length >= 2 ? [asGemm(node, x, stored)] : undefined;
    },
  });
}

/** The module whose weight a node that came out of a fused operator uses; one such operator may hold several modules. */
function moduleOf({ op, inputs }: Node): string | undefined {
  const weight = inputs[op === "Gather" ? 0 : 1];
  if (!["Gather", "MatMul", "Gemm"].includes(op) || weight?.source.kind !== "constant") return undefined;
  return weight.name?.endsWith(".weight") ? weight.name.slice(0, -".weight".length) : undefined;
}

/** The matrix of which `value` is the transpose. */
function transposedConstant({ source, shape }: Value): Value | undefined {
  if (source.kind !== "node" || source.node.op !== "Transpose" || shape.length !== 2) return undefined;
  const [stored] = source.node.inputs;
  const { perm } = source.node.attrs;
  const swaps = !perm || ("ints" in perm && Number(perm.ints[0]) === 1);
  return swaps && stored?.source.kind === "constant" ? stored : undefined;
}

function turnedGemm(node: Node, inputs: readonly (Value | undefined)[], stored: Value): readonly Value[] {
  const flag = node.attrs.transB;
  const turned = flag !== undefined && "i" in flag && Number(flag.i) !== 0;
  const attrs = { ...node.attrs, transB: { i: turned ? 0 : 1 } };
  return makeNode("Gemm", [inputs[0], stored, inputs[2]], attrs, { scope: node.scope, name: node.name })
    .outputs;
}

function asGemm(node: Node, x: Value, stored: Value): Value {
  return withScope(node.scope, () => {
    const lead = x.shape.slice(0, -1);
    const width = x.shape.at(-1) ?? 1;
    const rows = ops.reshape(x, [lead.reduce((a, b) => dimMul(a, b), 1), width], [x]);
    const product = ops.gemm(rows, stored, undefined, { transB: true });
    return ops.reshape(product, [...lead, stored.shape[0] ?? 1], [x]);
  });
}
