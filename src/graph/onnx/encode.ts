import { create, toBinary } from "@bufbuild/protobuf";
import { TunesmithError } from "../../errors/index.js";
import { dtypeToOnnx, isTensorRef, type Tensor, type TensorRef } from "../../tensor/index.js";
import { describe } from "../create.js";
import { symbolsOf } from "../dims.js";
import { hasRule } from "../infer/index.js";
import { lowerMarkers } from "../passes/lower-markers.js";
import { reach } from "../traverse.js";
import type { Graph, Node, Value } from "../types.js";
import {
  type GraphProto,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  TensorProto_DataLocation,
  TensorProtoSchema,
  type ValueInfoProto,
} from "./generated/onnx_pb.js";
import { attributeMessage, tensorMessage, valueInfo } from "./messages.js";
import { type NamePool, namePool, nodePath } from "./names.js";
import { joinBytes, lengthHeader } from "./wire.js";

/** Where the bytes of an external initialiser are. */
export interface ExternalRegion {
  /** File name, relative to the model's folder. */
  readonly location: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

export interface EncodeOptions {
  /** Constants that stay in other files. All others are written into the model. */
  readonly external?: ReadonlyMap<Value, ExternalRegion>;
  /** What inputs hold when they are not fed: they become initialisers that a run may override. */
  readonly defaults?: ReadonlyMap<Value, Tensor>;
  /** ONNX operator set; default 21, or what the newest operator in the graph needs. */
  readonly opset?: number;
  /** ONNX file version; default 10, or what the operator set needs. */
  readonly irVersion?: number;
  /** Versions of other operator domains; default 1 each. */
  readonly opsets?: Readonly<Record<string, number>>;
  /** Key-value pairs stored with the model. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly docString?: string;
  /** Declares dtype and shape of every inner value, for viewers and other tools. Default false. */
  readonly valueInfo?: boolean;
}

/** The pieces of an encoded model, in order; a `TensorRef` stands for the bytes it refers to. */
export interface EncodedParts {
  readonly parts: readonly (Uint8Array | TensorRef)[];
  readonly byteLength: number;
}

/** What one model's encoding shares between its graph and sub-graphs. */
interface Encoding {
  readonly options: EncodeOptions;
  readonly values: NamePool;
  readonly nodes: NamePool;
  readonly names: Map<Value, string>;
  readonly domains: Set<string>;
  /** Newest operator set that an operator of the graph was introduced in. */
  newest: number;
}

/** Operators younger than opset 21. */
export const INTRODUCED: Readonly<Record<string, number>> = {
  RMSNormalization: 23,
  RotaryEmbedding: 23,
  Attention: 23,
  Swish: 24,
  TensorScatter: 24,
};

/** The operator set a node needs, inputs and attributes of younger versions included. */
export function introduced(node: Pick<Node, "op" | "inputs" | "attrs">): number {
  if (node.op === "Attention" && (node.attrs.left_window_size || node.attrs.right_window_size)) return 25;
  if (node.op === "Attention" && node.inputs[6]) return 24;
  return INTRODUCED[node.op] ?? 0;
}

/**
 * The graph as a complete ONNX model file. Edge names are kept where they are unique, inputs and outputs are called
 * exactly as the graph calls them, node names carry the module path. Markers of ours are lowered away.
 *
 * Throws `name-conflict` for two inputs or outputs of one name, `graph-invalid` for an unnamed or unlisted input and
 * for a constant that is still in a file but missing in `external`.
 *
 * @example
 * ```ts
 * import { encodeGraph, input, makeGraph, ops } from "tunesmith/graph";
 * const x = input("x", "float32", ["n", 4]);
 * const model: Uint8Array = encodeGraph(makeGraph("double", [x], [["y", ops.mul(x, 2)]]));
 * ```
 */
export function encodeGraph(graph: Graph, options: EncodeOptions = {}): Uint8Array {
  const parts = encodeParts(graph, options).parts.map((part) => {
    if (part instanceof Uint8Array) return part;
    throw new TunesmithError("graph-invalid", `constant '${part.name}' is still in ${part.source.name}`, {
      fix: "name its place in `external`, or read it first",
      details: { name: part.name },
    });
  });
  return joinBytes(parts);
}

/**
 * Like `encodeGraph`, without joining: constants in memory are views, those in files are references, so a model is
 * written without ever being held in one piece. Fields are ordered by number, as any protobuf library writes them.
 */
export function encodeParts(graph: Graph, options: EncodeOptions = {}): EncodedParts {
  const encoding: Encoding = {
    options,
    values: namePool(),
    nodes: namePool(),
    names: new Map(),
    domains: new Set([""]),
    newest: 21,
  };
  const body = graphParts(lowerMarkers(graph), encoding);
  const opset = options.opset ?? encoding.newest;
  const head = create(ModelProtoSchema, {
    irVersion: BigInt(options.irVersion ?? (opset > 21 ? 11 : 10)),
    producerName: "tunesmith",
    ...(options.docString ? { docString: options.docString } : {}),
  });
  const tail = create(ModelProtoSchema, {
    opsetImport: [...encoding.domains].sort().map((domain) => ({
      domain,
      version: BigInt(domain === "" ? opset : (options.opsets?.[domain] ?? 1)),
    })),
    metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value })),
  });
  return joined([
    toBinary(ModelProtoSchema, head),
    lengthHeader(7, body.byteLength),
    ...body.parts,
    toBinary(ModelProtoSchema, tail),
  ]);
}

const lengthOf = (part: Uint8Array | TensorRef) => part.byteLength;

function joined(parts: readonly (Uint8Array | TensorRef)[]): EncodedParts {
  return { parts, byteLength: parts.reduce((sum, part) => sum + lengthOf(part), 0) };
}

function graphParts(graph: Graph, encoding: Encoding): EncodedParts {
  const { names } = encoding;
  for (const value of graph.inputs) {
    if (!value.name)
      throw new TunesmithError("graph-invalid", `graph '${graph.name}' has an input without a name`);
    reserve(encoding, value.name, `inputs of graph '${graph.name}'`);
    names.set(value, value.name);
  }
  const { nodes, values } = reach(graph.outputs.values());
  const identities = nameOutputs(graph, encoding, (name) => {
    reserve(encoding, name, `inputs and outputs of graph '${graph.name}'`);
    return name;
  });
  const listed = new Set(graph.inputs);
  const constants: Value[] = [];
  for (const value of values) {
    if (value.source.kind === "constant") constants.push(value);
    else if (value.source.kind === "input" && !listed.has(value)) {
      throw new TunesmithError(
        "graph-invalid",
        `graph '${graph.name}' reads input '${value.name}' but does not list it`,
        {
          fix: "add it to the graph's inputs",
        },
      );
    }
  }
  constants.forEach((value, index) => {
    names.set(value, encoding.values.claim(value.name || `constant_${index}`));
  });
  const body = [...nodes.map((node) => nodeMessage(node, encoding)), ...identities()];
  const symbols = new Set(graph.inputs.flatMap((value) => value.shape.flatMap(symbolsOf)));
  const known = (dim: string) => symbolsOf(dim).every((symbol) => symbols.has(symbol));
  const head = create(GraphProtoSchema, { node: body, name: graph.name || "graph" });
  const tail = create(GraphProtoSchema, {
    input: graph.inputs.map((value) => valueInfo(value.name ?? "", value.dtype, value.shape)),
    output: [...graph.outputs].map(([name, value]) => valueInfo(name, value.dtype, value.shape, known)),
    valueInfo: innerInfo(nodes, graph, encoding),
  });
  return joined([
    toBinary(GraphProtoSchema, head),
    ...constants.flatMap((value) =>
      value.source.kind === "constant" ? initializerParts(value, value.source.data, encoding) : [],
    ),
    ...graph.inputs.flatMap((value) => {
      const data = encoding.options.defaults?.get(value);
      return data ? initializerParts(value, data, encoding) : [];
    }),
    toBinary(GraphProtoSchema, tail),
  ]);
}

function reserve(encoding: Encoding, name: string, among: string): void {
  if (encoding.values.reserve(name)) return;
  throw new TunesmithError("name-conflict", `'${name}' stands twice among the ${among}`, {
    fix: "give inputs and outputs different names",
    details: { name },
  });
}

/** Names output values; those that cannot carry the name themselves get an Identity, created by the returned function. */
function nameOutputs(graph: Graph, encoding: Encoding, take: (name: string) => string): () => NodeProto[] {
  const copies: { from: Value; to: string }[] = [];
  for (const [wanted, value] of graph.outputs) {
    const name = take(wanted);
    const captured = graph.captures?.includes(value);
    if (value.source.kind !== "node" || captured || encoding.names.has(value))
      copies.push({ from: value, to: name });
    else encoding.names.set(value, name);
  }
  return () =>
    copies.map(({ from, to }) =>
      create(NodeProtoSchema, {
        input: [edge(encoding, from)],
        output: [to],
        name: encoding.nodes.claim(`/${to}/Identity`),
        opType: "Identity",
      }),
    );
}

function edge(encoding: Encoding, value: Value | undefined): string {
  if (!value) return "";
  const name = encoding.names.get(value);
  if (name !== undefined) return name;
  throw new TunesmithError("graph-invalid", `value '${value.name ?? value.id}' is used outside its graph`, {
    fix: "list it in the sub-graph's captures",
  });
}

function nodeMessage(node: Node, encoding: Encoding): NodeProto {
  encoding.domains.add(node.domain);
  if (node.domain === "") encoding.newest = Math.max(encoding.newest, introduced(node));
  const name = encoding.nodes.claim(node.name ?? nodePath(node.scope, node.op));
  node.outputs.forEach((value, index) => {
    if (encoding.names.has(value)) return;
    encoding.names.set(value, encoding.values.claim(value.name || `${name}_output_${index}`));
  });
  const input = node.inputs.map((value) => edge(encoding, value));
  while (input.at(-1) === "") input.pop();
  return create(NodeProtoSchema, {
    input,
    output: node.outputs.map((value) => edge(encoding, value)),
    name,
    opType: node.op,
    attribute: Object.entries(node.attrs).map(([key, attr]) =>
      attributeMessage(key, attr, describe(node), (inner) => innerGraph(inner, encoding)),
    ),
    ...(node.domain ? { domain: node.domain } : {}),
  });
}

/** A sub-graph: positional inputs and outputs, so their names may change to stay unique in the whole file. */
function innerGraph(graph: Graph, encoding: Encoding): GraphProto {
  const { names, values: pool } = encoding;
  const { nodes, values } = reach(
    graph.outputs.values(),
    new Set([...graph.inputs, ...(graph.captures ?? [])]),
  );
  // What differentiation also uses outside (a branch it took apart) has a name there, and gets another one here.
  const own = [...graph.inputs, ...nodes.flatMap((node) => node.outputs)];
  const outside = own.flatMap((value) => {
    const name = names.get(value);
    return name === undefined ? [] : [[value, name] as const];
  });
  for (const value of own) names.delete(value);
  for (const value of graph.inputs) names.set(value, pool.claim(value.name || "input"));
  const outputNames: string[] = [];
  const identities = nameOutputs(graph, encoding, (name) => {
    const unique = pool.claim(name);
    outputNames.push(unique);
    return unique;
  });
  const constants = values.filter((value) => value.source.kind === "constant" && !names.has(value));
  for (const value of constants) names.set(value, pool.claim(value.name || "constant"));
  const body = nodes.map((node) => nodeMessage(node, encoding));
  const encoded = create(GraphProtoSchema, {
    node: [...body, ...identities()],
    name: graph.name || "body",
    initializer: constants.map((value) => innerInitializer(value, encoding)),
    input: graph.inputs.map((value) =>
      valueInfo(edge(encoding, value), value.dtype, value.shape, () => false),
    ),
    output: [...graph.outputs.values()].map((value, index) =>
      valueInfo(outputNames[index] as string, value.dtype, value.shape, () => false),
    ),
  });
  for (const [value, name] of outside) names.set(value, name);
  return encoded;
}

function innerInitializer(value: Value, encoding: Encoding) {
  const name = edge(encoding, value);
  if (value.source.kind === "constant" && !isTensorRef(value.source.data)) {
    return tensorMessage(value.source.data, name);
  }
  throw new TunesmithError("graph-invalid", `constant '${name}' of a sub-graph is still in its file`, {
    fix: "list it in the sub-graph's captures, or read it first",
  });
}

function innerInfo(nodes: readonly Node[], graph: Graph, encoding: Encoding): ValueInfoProto[] {
  const outputs = new Set(graph.outputs.values());
  return nodes
    .filter((node) => encoding.options.valueInfo || !hasRule(node.op, node.domain))
    .flatMap((node) => node.outputs)
    .filter((value) => !outputs.has(value))
    .map((value) => valueInfo(edge(encoding, value), value.dtype, value.shape));
}

function initializerParts(
  value: Value,
  data: Tensor | TensorRef,
  encoding: Encoding,
): (Uint8Array | TensorRef)[] {
  const name = edge(encoding, value);
  const region = encoding.options.external?.get(value);
  const head = create(TensorProtoSchema, {
    dims: data.shape.map(BigInt),
    dataType: dtypeToOnnx(data.dtype),
    name,
  });
  if (region) {
    const entry = (key: string, text: string | number) => ({ key, value: String(text) });
    const external = create(TensorProtoSchema, {
      externalData: [
        entry("location", region.location),
        entry("offset", region.offset),
        entry("length", region.length),
      ],
      dataLocation: TensorProto_DataLocation.EXTERNAL,
    });
    const bytes = [toBinary(TensorProtoSchema, head), toBinary(TensorProtoSchema, external)];
    return field(5, bytes);
  }
  if (isTensorRef(data))
    return field(5, [toBinary(TensorProtoSchema, head), lengthHeader(9, data.byteLength), data]);
  if (data.dtype === "string") return field(5, [toBinary(TensorProtoSchema, tensorMessage(data, name))]);
  const { rawData } = tensorMessage(data, name);
  return field(5, [toBinary(TensorProtoSchema, head), lengthHeader(9, rawData.byteLength), rawData]);
}

function field(number: number, parts: readonly (Uint8Array | TensorRef)[]): (Uint8Array | TensorRef)[] {
  return [lengthHeader(number, joined(parts).byteLength), ...parts];
}
