import {
  type Node,
  type QuantizedMatrix,
  quantizationOf,
  quantizeMatrix,
  type Value,
} from "../graph/index.js";
import { frozenTensor, type Model, type Site } from "../models/index.js";
import { readTensor, type Tensor, toFloat32 } from "../tensor/index.js";
import { oriented } from "./adapter.js";

const intOf = ({ attrs }: Node, name: string, fallback: number): number => {
  const attr = attrs[name];
  return attr && "i" in attr ? Number(attr.i) : fallback;
};

/** The quantised weight of a linear site, in memory, `[out, in]`; forms that are not written here become the nearest that is. */
export async function storedMatrix(model: Model, site: Site): Promise<QuantizedMatrix<Tensor>> {
  const own = model.quantization?.sites.get(site.path) ?? operandsAsMatrix(site);
  if (own) return inMemory(own);
  const { outFeatures: rows, inFeatures: columns } = site;
  const wide = site.stored?.codes.dtype === "int8" || site.stored?.codes.dtype === "uint8";
  const bits = site.node.op === "MatMulNBits" ? intOf(site.node, "bits", 4) : wide ? 8 : 4;
  const weight = oriented(site, toFloat32(await frozenTensor(site.weight)));
  return quantizeMatrix(weight, rows, columns, quantizationOf(bits === 8 ? "int8" : "int4"));
}

/** MatMulNBits of 4 bits and NF4's MatMulBnb4 hold what our own products do. */
function operandsAsMatrix({
  node,
  outFeatures: rows,
  inFeatures: columns,
}: Site): QuantizedMatrix<Value> | undefined {
  const [, codes, scales, zeros] = node.inputs;
  if (codes?.source.kind !== "constant" || scales?.source.kind !== "constant") return undefined;
  const blockSize = intOf(node, "block_size", 0);
  const isBook = node.op === "MatMulBnb4" && intOf(node, "quant_type", 1) === 1;
  if (isBook) {
    const settings = { kind: "nf4", blockSize, doubleQuant: false } as const;
    return { rows, columns, settings, parts: { codes, scales } };
  }
  const isPlain = !zeros || (zeros.dtype === "uint8" && zeros.source.kind === "constant");
  if (node.op !== "MatMulNBits" || intOf(node, "bits", 4) !== 4 || !isPlain) return undefined;
  const activations = intOf(node, "accuracy_level", 0) === 4 ? "int8" : "float";
  const settings = { kind: "int4", blockSize, symmetric: !zeros, activations } as const;
  return { rows, columns, settings, parts: { codes, scales, ...(zeros ? { zeros } : {}) } };
}

async function inMemory({ parts, ...rest }: QuantizedMatrix<Value>): Promise<QuantizedMatrix<Tensor>> {
  const read: Record<string, Tensor> = {};
  for (const [name, value] of Object.entries(parts)) read[name] = await frozenTensor(value);
  return { ...rest, parts: read };
}

/** A tensor of a site as it was before a merge. */
export const floatsOfSite = async (site: Site): Promise<Float32Array> => {
  const { source } = site.weight;
  return toFloat32(
    source.kind === "constant" ? await readTensor(source.data) : await frozenTensor(site.weight),
  );
};
