import {
  decompose,
  dimMul,
  type Graph,
  makeNode,
  type Node,
  ops,
  rewrite,
  usesOf,
  type Value,
  withScope,
} from "../../graph/index.js";
import { isVector } from "../operands.js";
import { storedOf } from "../stored.js";
import { nameModules } from "./module-names.js";

/** Fused operators that hide weights an adapter may want, or the sum that is the residual stream. */
const HIDING = new Set([
  "Attention",
  "EmbedLayerNormalization",
  "SkipLayerNormalization",
  "SkipSimplifiedLayerNormalization",
]);
/** Fused operators that are a linear map and something else, where their weight is stored. */
const FUSED_MAPS = new Set([
  "FusedConv",
  "FusedGemm",
  "FusedMatMul",
  "FusedMatMulActivation",
  "GemmFastGelu",
  "NhwcConv",
]);

const hides = ({ op, domain, inputs }: Node): boolean => {
  const weight = inputs[1];
  if (/^QLinear(Conv|MatMul)$/.test(op)) return true;
  if (domain !== "com.microsoft") return false;
  return (
    HIDING.has(op) || op === "QGemm" || (FUSED_MAPS.has(op) && weight !== undefined && !!storedOf(weight))
  );
};

/**
 * The graph with its linear maps in plain sight, as products with a stored weight: fused operators that contain weights are
 * taken apart, weights stored transposed (`MatMul(x, Transpose(W))`, a tied head) are used as they are stored, `Identity`
 * nodes between a weight and its use vanish, a bias added to a product or a convolution is part of it, and every
 * module has a path.
 */
export function exposeLinearMaps(graph: Graph): Graph {
  return nameModules(withBiases(directly(decompose(graph, hides))));
}

function directly(graph: Graph): Graph {
  return rewrite(graph, {
    visit(node, inputs) {
      const [x, weight] = inputs;
      if (node.domain !== "") return undefined;
      if (node.op === "Identity" && x) return [x];
      const module = node.name === undefined ? moduleOf(node) : undefined;
      if (module !== undefined && module !== node.scope) {
        return makeNode(node.op, inputs, node.attrs, { scope: module, outputs: node.outputs.length }).outputs;
      }
      const stored = weight && untransposed(weight);
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

/** The stored matrix of which `value` is the transpose. */
function untransposed({ source, shape }: Value): Value | undefined {
  if (source.kind !== "node" || source.node.op !== "Transpose" || shape.length !== 2) return undefined;
  const [stored] = source.node.inputs;
  const { perm } = source.node.attrs;
  const swaps = !perm || ("ints" in perm && Number(perm.ints[0]) === 1);
  return swaps && stored && storedOf(stored) ? stored : undefined;
}

function turnedGemm(node: Node, inputs: readonly (Value | undefined)[], stored: Value): readonly Value[] {
  const flag = node.attrs.transB;
  const turned = flag !== undefined && "i" in flag && Number(flag.i) !== 0;
  const attrs = { ...node.attrs, transB: { i: turned ? 0 : 1 } };
  return makeNode("Gemm", [inputs[0], stored, inputs[2]], attrs, { scope: node.scope, name: node.name })
    .outputs;
}

/** A product as a Gemm over rows, with the weight as it is stored. */
function asGemm(node: Node, x: Value, weight: Value, bias?: Value, transB = true): Value {
  return withScope(node.scope, () => {
    const product = (rows: Value) =>
      makeNode("Gemm", bias ? [rows, weight, bias] : [rows, weight], transB ? { transB: { i: 1 } } : {}, {
        name: node.name,
      }).outputs[0] as Value;
    if (x.shape.length === 2) return product(x);
    const lead = x.shape.slice(0, -1);
    const rows = ops.reshape(x, [lead.reduce((a, b) => dimMul(a, b), 1), x.shape.at(-1) ?? 1], [x]);
    return ops.reshape(product(rows), [...lead, weight.shape[transB ? 0 : 1] ?? 1], [x]);
  });
}

/** Sums of a product or a convolution with one number per feature become its bias. */
function withBiases(graph: Graph): Graph {
  const uses = usesOf(graph);
  const results = new Set(graph.outputs.values());
  const isAlone = (value: Value) => uses.get(value)?.length === 1 && !results.has(value);
  return rewrite(graph, {
    visit(node, inputs) {
      if (node.op !== "Add" || node.domain !== "") return undefined;
      const at = node.inputs.findIndex((value) => value && storedOf(value));
      const [bias, sum] = [inputs[at], inputs[1 - at]];
      const own = node.inputs[1 - at];
      if (!bias || !sum || !own || !isVector(bias) || bias.dtype !== "float32" || !isAlone(own))
        return undefined;
      // The product, perhaps under the Reshape that gave it its axes back.
      const reshape = nodeOf(sum, "Reshape");
      const inner = node.inputs[1 - at]?.source;
      const alone =
        !reshape || (inner?.kind === "node" && inner.node.inputs[0] && isAlone(inner.node.inputs[0]));
      const product = reshape ? reshape.inputs[0] : sum;
      const summed = product && alone ? biased(product, bias) : undefined;
      if (!summed) return undefined;
      return reshape
        ? [
            makeNode("Reshape", [summed, reshape.inputs[1]], reshape.attrs, { scope: reshape.scope })
              .outputs[0] as Value,
          ]
        : [summed];
    },
  });
}

const nodeOf = ({ source }: Value, op: string): Node | undefined =>
  source.kind === "node" && source.node.op === op && source.node.domain === "" ? source.node : undefined;

/** A product or convolution without a bias, with one. */
function biased(value: Value, bias: Value): Value | undefined {
  if (value.source.kind !== "node") return undefined;
  const { node } = value.source;
  const { op, inputs, attrs, scope, name } = node;
  const [x, weight] = inputs;
  if (
    node.domain === "com.microsoft" &&
    op === "MatMulNBits" &&
    !inputs[5] &&
    lastOf(bias) === value.shape.at(-1)
  ) {
    const { domain } = node;
    const all = [...inputs, undefined, undefined, undefined].slice(0, 5);
    return makeNode(op, [...all, flat(bias)], attrs, { domain, scope, name }).outputs[0];
  }
  if (node.domain !== "" || !x || !weight || !storedOf(weight) || inputs[2]) return undefined;
  if (op === "Conv" && perChannel(bias, value.shape.length))
    return makeNode(op, [x, weight, flat(bias)], attrs, { scope, name }).outputs[0];
  if (lastOf(bias) !== value.shape.at(-1) || bias.shape.length > value.shape.length) return undefined;
  if (op === "Gemm") return makeNode(op, [x, weight, flat(bias)], attrs, { scope, name }).outputs[0];
  if (op !== "MatMul" || weight.shape.length !== 2 || x.shape.length < 2) return undefined;
  return asGemm(node, x, weight, flat(bias), false);
}

const lastOf = (bias: Value) => bias.shape.at(-1);

/** `[C, 1, 1]` or `[1, C, 1, 1]`. */
const perChannel = ({ shape }: Value, rank: number): boolean =>
  shape.length >= rank - 1 && shape.length <= rank && shape[shape.length - rank + 1] !== 1;

const flat = (bias: Value): Value => (bias.shape.length === 1 ? bias : ops.reshape(bias, [-1]));
