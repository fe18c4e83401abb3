import { TunesmithError } from "../../errors/index.js";
import { isTensorRef, tensor as makeTensor, type Tensor, type TensorRef } from "../../tensor/index.js";
import { constant, input, makeGraph, makeNode } from "../create.js";
import { hasRule } from "../infer/index.js";
import type { Attr, Attrs, Dim, Graph, Shape, Value } from "../types.js";
import { attributeOf } from "./attributes.js";
import { type Declared, type DimReader, declaredOf } from "./declared.js";
import type {
  FunctionProto,
  GraphProto,
  NodeProto,
  OperatorSetIdProto,
  TensorProto,
} from "./generated/onnx_pb.js";
import { inOrder } from "./order.js";
import { importedScope } from "./scopes.js";
import { upgrade } from "./upgrade.js";

/** What is the same in the whole file. */
export interface Importer {
  readonly tensor: (message: TensorProto) => Tensor | TensorRef;
  readonly functions: ReadonlyMap<string, FunctionProto>;
  readonly readDim: DimReader;
}

/** What a graph inherits from where it stands. */
interface Place {
  readonly importer: Importer;
  readonly opsets: Readonly<Record<string, number>>;
  readonly depth: number;
  /** Set inside the body of a model-local function. */
  readonly call?: Call;
}

interface Call {
  readonly prefix: string;
  readonly scope: string;
  readonly attributes: ReadonlyMap<string, Attr>;
}

/** The names visible in one graph. */
interface Scope extends Place {
  readonly values: Map<string, Value>;
  readonly captures: Set<Value>;
  readonly declared: ReadonlyMap<string, Declared>;
  readonly outer: Scope | undefined;
}

const MAX_DEPTH = 64;

export const functionKey = (domain: string, name: string, overload: string) =>
  `${domain}:${name}:${overload}`;

export function opsetsOf(imports: readonly OperatorSetIdProto[]): Record<string, number> {
  const listed = imports.map(({ domain, version }) => [domain === "ai.onnx" ? "" : domain, Number(version)]);
  return { "": 1, ...Object.fromEntries(listed) };
}

/**
 * Builds a graph or sub-graph. Initialisers that are also listed as inputs (files before IR 4) are constants.
 * A sub-graph looks names up in `outer` too, and what it finds there becomes a capture.
 *
 * @param expected Types of a sub-graph's inputs, as far as the operator around it knows them.
 */
export function buildGraph(
  graph: GraphProto,
  place: Place,
  outer?: Scope,
  expected: readonly (Declared | undefined)[] = [],
): Graph {
  const { readDim, tensor } = place.importer;
  const scope: Scope = {
    ...place,
    values: new Map(),
    captures: new Set(),
    declared: declarations(graph, readDim),
    outer,
  };
  for (const message of graph.initializer)
    define(scope, message.name, constantOf(scope, tensor(message), message.name));
  const inputs: Value[] = [];
  graph.input.forEach((info, index) => {
    if (scope.values.has(info.name)) return;
    const value = inputOf(info.name, declaredOf(info, readDim), expected[index], graph.name);
    define(scope, info.name, value);
    inputs.push(value);
  });
  for (const node of inOrder(graph.node)) buildNode(node, scope);
  const outputs = graph.output.map(({ name }): [string, Value] => [
    name,
    lookup(scope, name, "an output of the graph"),
  ]);
  const result = makeGraph(graph.name, inputs, outputs);
  return outer ? { ...result, captures: [...scope.captures] } : result;
}

function declarations(graph: GraphProto, readDim: DimReader): Map<string, Declared> {
  const found = new Map<string, Declared>();
  for (const info of [...graph.valueInfo, ...graph.output]) {
    const declared = info.type?.value.case === "tensorType" ? declaredOf(info, readDim) : undefined;
    if (declared) found.set(info.name, declared);
  }
  return found;
}

function define(scope: Scope, name: string, value: Value): void {
  if (scope.values.has(name)) {
    throw new TunesmithError("graph-invalid", `'${name}' is defined twice`, {
      fix: "every name in a graph must be unique; export the model again",
      details: { name },
    });
  }
  scope.values.set(name, value);
}

/** A constant; those of sub-graphs that stay in a file are captured, so that the graph around knows all of them. */
function constantOf(scope: Scope, data: Tensor | TensorRef, name: string): Value {
  const value = constant(data, scope.call ? `${scope.call.prefix}/${name}` : name);
  if (isTensorRef(data)) for (let at = scope; at.outer; at = at.outer) at.captures.add(value);
  return value;
}

function inputOf(
  name: string,
  declared: Declared | undefined,
  expected: Declared | undefined,
  graph: string,
): Value {
  const dtype = declared?.dtype ?? expected?.dtype;
  const known = mergeShapes(declared?.shape, expected?.shape);
  // Converters write length 0 for an axis they leave open.
  const shape = known?.map((dim, axis) =>
    dim === 0 && !expected ? `${name.replace(/\W+/g, "_")}_dim_${axis}` : dim,
  );
  if (dtype && shape) return input(name, dtype, shape);
  throw new TunesmithError(
    "graph-invalid",
    `input '${name}' of graph '${graph}' declares no ${dtype ? "shape" : "type"}`,
    {
      fix: "export the model with declared input shapes (symbolic axes are fine)",
      details: { name },
    },
  );
}

/** What is declared as a number counts; for the rest the surroundings know more. */
function mergeShapes(declared: Shape | undefined, expected: Shape | undefined): Shape | undefined {
  if (!declared || !expected || declared.length !== expected.length) return declared ?? expected;
  return declared.map((dim, axis) => (typeof dim === "number" ? dim : (expected[axis] as Dim)));
}

function lookup(scope: Scope, name: string, where: string): Value {
  const found = find(scope, name);
  if (found) return found;
  throw new TunesmithError("graph-invalid", `${where} reads '${name}', which nothing before it produces`, {
    fix: "the file is damaged; export the model again",
    details: { name },
  });
}

function find(scope: Scope, name: string): Value | undefined {
  const own = scope.values.get(name);
  if (own || !scope.outer) return own;
  const outer = find(scope.outer, name);
  if (outer) scope.captures.add(outer);
  return outer;
}

const show = (node: NodeProto) => `${node.opType} '${node.name || node.output[0] || ""}'`;

function buildNode(node: NodeProto, scope: Scope): void {
  const where = show(node);
  const inputs = node.input.map((name) => (name === "" ? undefined : lookup(scope, name, where)));
  let results: readonly (Value | undefined)[];
  try {
    results = nodeOutputs(node, inputs, scope);
  } catch (error) {
    if (!(error instanceof TunesmithError) || error.message.startsWith("node ")) throw error;
    throw new TunesmithError(error.code, `node ${where}: ${error.message}`, {
      cause: error,
      details: error.details,
    });
  }
  node.output.forEach((name, index) => {
    const value = results[index];
    if (name === "") return;
    if (!value) throw new TunesmithError("graph-invalid", `${where} has no output ${index} ('${name}')`);
    define(scope, name, value);
  });
}

type Inputs = readonly (Value | undefined)[];

function nodeOutputs(node: NodeProto, inputs: Inputs, scope: Scope): readonly (Value | undefined)[] {
  const called = scope.importer.functions.get(functionKey(node.domain, node.opType, node.overload));
  if (called) return inlineCall(called, node, inputs, scope);
  const domain = node.domain === "ai.onnx" ? "" : node.domain;
  if (domain === "" && node.opType === "Constant") return [constantNode(node, scope)];
  const attrs = attributesOf(node, inputs, scope);
  const path = [scope.call?.scope, importedScope(node, inputs)].filter(Boolean).join(".");
  const count = node.output.length;
  let call = { op: node.opType, inputs, attrs, outputs: count };
  if (domain === "") {
    const result = upgrade(call, scope.opsets[""] ?? 1, path);
    if (Array.isArray(result)) return result;
    call = result as typeof call;
  }
  const name = scope.call ? `${scope.call.prefix}/${node.name || node.opType}` : node.name;
  return makeNode(call.op, call.inputs, call.attrs, {
    domain,
    outputs: count,
    scope: path,
    name: name || undefined,
    outputNames: scope.call ? [] : node.output.map((output) => output || undefined),
    fallback: hasRule(call.op, domain) ? undefined : declaredOutputs(node, scope),
  }).outputs;
}

/** What the file says about the results of an operator that inference does not know. */
function declaredOutputs(node: NodeProto, scope: Scope) {
  return node.output.map((name) => {
    const declared = scope.declared.get(name);
    if (declared?.shape) return { dtype: declared.dtype, shape: declared.shape };
    throw new TunesmithError(
      "op-unknown",
      `operator ${node.domain ? `${node.domain}.` : ""}${node.opType} is not known, and the file does not declare its results`,
      {
        fix: "export the model with value_info (onnx.shape_inference), or without this operator",
        details: { op: node.opType },
      },
    );
  });
}

function constantNode(node: NodeProto, scope: Scope): Value {
  const [attribute] = node.attribute;
  const name = node.output[0] ?? "";
  if (attribute?.t) return constantOf(scope, scope.importer.tensor(attribute.t), name);
  const attr = attributesOf(node, [], scope)[attribute?.name ?? ""];
  const data = attr && constantData(attr);
  if (data) return constantOf(scope, data, name);
  throw new TunesmithError("attribute-unsupported", `Constant '${name}' has no value that can be read`, {
    fix: "export the model with dense constants",
  });
}

function constantData(attr: Attr): Tensor | undefined {
  if ("t" in attr) return attr.t;
  if ("i" in attr) return makeTensor("int64", [], [attr.i]);
  if ("f" in attr) return makeTensor("float32", [], [attr.f]);
  if ("s" in attr) return makeTensor("string", [], [attr.s]);
  if ("ints" in attr) return makeTensor("int64", [attr.ints.length], BigInt64Array.from(attr.ints, BigInt));
  if ("floats" in attr) return makeTensor("float32", [attr.floats.length], [...attr.floats]);
  if ("strings" in attr) return makeTensor("string", [attr.strings.length], attr.strings);
  return undefined;
}

function attributesOf(node: NodeProto, inputs: Inputs, scope: Scope): Attrs {
  const attrs: Record<string, Attr> = {};
  for (const message of node.attribute) {
    if (message.refAttrName) {
      const given = scope.call?.attributes.get(message.refAttrName);
      if (given) attrs[message.name] = given;
      continue;
    }
    attrs[message.name] = attributeOf(message, {
      where: show(node),
      tensor: scope.importer.tensor,
      graph: (inner) => subGraph(inner, node, inputs, scope),
    });
  }
  return attrs;
}

const attributeNamed = (node: NodeProto, name: string) =>
  node.attribute.find((attribute) => attribute.name === name);
const scanInputs = (node: NodeProto) => Number(attributeNamed(node, "num_scan_inputs")?.i ?? 0);

function subGraph(graph: GraphProto, node: NodeProto, inputs: Inputs, scope: Scope): Graph {
  if (scope.depth >= MAX_DEPTH) throw new TunesmithError("graph-invalid", "graphs are nested too deeply");
  const place: Place = { ...scope, depth: scope.depth + 1 };
  const first = bodyInputs(node, inputs);
  const built = buildGraph(graph, place, scope, first);
  if (node.opType !== "Loop" && node.opType !== "Scan") return built;
  const kept =
    node.opType === "Loop"
      ? { from: 2, results: 1, count: inputs.length - 2 }
      : { from: 0, results: 0, count: inputs.length - scanInputs(node) };
  // A carried value whose axes change from round to round has no fixed length there: build again with symbols.
  const results = [...built.outputs.values()];
  let changed = false;
  const second = first.map((spec, index) => {
    const after = results[index - kept.from + kept.results];
    if (index < kept.from || index >= kept.from + kept.count || !spec?.shape || !after) return spec;
    const shape = spec.shape.map((dim, axis) =>
      after.shape[axis] === dim ? dim : `carried_${after.id}_${axis}`,
    );
    changed ||= shape.some((dim, axis) => dim !== spec.shape?.[axis]);
    return { ...spec, shape };
  });
  return changed ? buildGraph(graph, place, scope, second) : built;
}

function bodyInputs(node: NodeProto, inputs: Inputs): (Declared | undefined)[] {
  const type = (value: Value | undefined): Declared | undefined =>
    value && { dtype: value.dtype, shape: value.shape };
  if (node.opType === "Loop") {
    return [{ dtype: "int64", shape: [] }, { dtype: "bool", shape: [] }, ...inputs.slice(2).map(type)];
  }
  if (node.opType !== "Scan") return [];
  const states = inputs.length - scanInputs(node);
  const axes = attributeNamed(node, "scan_input_axes")?.ints.map(Number) ?? [];
  return inputs.map((value, index) => {
    const spec = type(value);
    if (index < states || !spec?.shape) return spec;
    const raw = axes[index - states] ?? 0;
    const axis = raw < 0 ? raw + spec.shape.length : raw;
    return { dtype: spec.dtype, shape: spec.shape.filter((_, at) => at !== axis) };
  });
}

/** The body of a model-local function over the call's inputs. */
function inlineCall(
  called: FunctionProto,
  node: NodeProto,
  inputs: Inputs,
  scope: Scope,
): readonly (Value | undefined)[] {
  if (scope.depth >= MAX_DEPTH)
    throw new TunesmithError("graph-invalid", `function ${called.name} calls itself`);
  const attributes = new Map<string, Attr>();
  const context = {
    where: show(node),
    tensor: scope.importer.tensor,
    graph: (inner: GraphProto) => subGraph(inner, node, inputs, scope),
  };
  for (const message of called.attributeProto) attributes.set(message.name, attributeOf(message, context));
  for (const [name, attr] of Object.entries(attributesOf(node, inputs, scope))) attributes.set(name, attr);
  const name = node.name || node.opType;
  const path = [scope.call?.scope, importedScope(node, inputs)].filter(Boolean).join(".");
  const body: Scope = {
    importer: scope.importer,
    opsets: { ...scope.opsets, ...opsetsOf(called.opsetImport) },
    depth: scope.depth + 1,
    call: { prefix: scope.call ? `${scope.call.prefix}/${name}` : name, scope: path, attributes },
    values: new Map(),
    captures: new Set(),
    declared: new Map(),
    outer: undefined,
  };
  const missing = new Set<string>();
  called.input.forEach((parameter, index) => {
    const value = inputs[index];
    if (value) define(body, parameter, value);
    else missing.add(parameter);
  });
  for (const inner of called.node) {
    buildNode(
      { ...inner, input: inner.input.map((parameter) => (missing.has(parameter) ? "" : parameter)) },
      body,
    );
  }
  return called.output.map((parameter) => lookup(body, parameter, `function ${called.name}`));
}
