import { dependencies, type Graph, type Node, nodesOf, staticShape, type Value } from "../graph/index.js";
import { byteLengthOf } from "../tensor/index.js";

/** Bytes of a value; 0 for one whose size is not known before it runs. */
export function bytesOf(value: Value): number {
  const shape = staticShape(value.shape);
  return shape && value.dtype !== "string"
    ? byteLengthOf(
        value.dtype,
        shape.reduce((a, b) => a * b, 1),
      )
    : 0;
}

/** Nodes whose output is their input's memory under another shape. */
export const VIEWS: ReadonlySet<string> = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"]);
/** Kernels that may write over an operand of the output's shape that nobody reads again (`MayInplace` in ONNX Runtime). */
const IN_PLACE = new Set("Neg Exp Log Sqrt Tanh Sigmoid Relu Erf Reciprocal Softmax Clip Abs".split(" "));

/**
 * The order in which ONNX Runtime runs nodes: depth first from the nodes whose results nobody reads, the latest node
 * first (graph.cc, `ReverseDFSFrom`). It decides what is alive together.
 */
function executionOrder(graph: Graph): Node[] {
  const nodes = nodesOf(graph);
  const makers = (node: Node) =>
    [
      ...new Set(dependencies(node).flatMap(({ source }) => (source.kind === "node" ? [source.node] : []))),
    ].sort((a, b) => a.id - b.id);
  const read = new Set(nodes.flatMap(makers));
  const stack = nodes.filter((node) => !read.has(node)).map((node) => ({ node, done: false }));
  const seen = new Set<Node>();
  const order: Node[] = [];
  for (let entry = stack.pop(); entry; entry = stack.pop()) {
    const { node, done } = entry;
    if (done) order.push(node);
    if (done || seen.has(node)) continue;
    seen.add(node);
    stack.push({ node, done: true });
    for (const maker of makers(node)) if (!seen.has(maker)) stack.push({ node: maker, done: false });
  }
  return order;
}

/** A piece of memory that one value after another uses, from the node that fills it first to the last that reads it. */
export interface Buffer {
  readonly bytes: number;
  readonly from: number;
  to: number;
}

/**
 * The buffers of a run as ONNX Runtime's planner lays them (allocation_planner.cc): views share memory, elementwise
 * kernels write over what nobody reads again, and a new value takes the buffer of a dead one of equal shape, the latest
 * first. A buffer that is taken again later stays allocated in between.
 */
export function plannedBuffers(graph: Graph): Buffer[] {
  const nodes = executionOrder(graph);
  const owner = new Map<Value, Value>();
  const rootOf = (value: Value) => owner.get(value) ?? value;
  for (const { op, inputs, outputs } of nodes) {
    const [from, to] = [inputs[0], outputs[0]];
    if (VIEWS.has(op) && from && to) owner.set(to, rootOf(from));
  }
  const uses = new Map<Value, number>();
  const touch = (value: Value) => uses.set(rootOf(value), (uses.get(rootOf(value)) ?? 0) + 1);
  for (const node of nodes) for (const value of node.inputs) if (value) touch(value);
  const returned = new Set([...graph.outputs.values()].map(rootOf));
  const buffers = new Map<Value, Buffer>();
  const all: Buffer[] = [];
  const free = new Map<string, Value[]>();
  for (const [at, node] of nodes.entries()) {
    if (!VIEWS.has(node.op)) {
      for (const value of node.outputs) {
        if (!uses.has(value) && !returned.has(value)) continue;
        const taken = returned.has(value)
          ? undefined
          : (inPlace(node, value, uses, rootOf, buffers) ?? free.get(kindOf(value))?.pop());
        const known = taken && buffers.get(taken);
        const buffer = known ?? { bytes: bytesOf(value), from: at, to: at };
        if (!known) all.push(buffer);
        if (taken) buffers.delete(taken);
        buffers.set(value, buffer);
      }
    }
    for (const value of node.inputs) {
      if (!value) continue;
      const root = rootOf(value);
      const buffer = buffers.get(root);
      const left = (uses.get(root) ?? 0) - 1;
      uses.set(root, left);
      if (!buffer) continue;
      buffer.to = at;
      if (left === 0 && !returned.has(root)) {
        const kind = kindOf(root);
        free.set(kind, [...(free.get(kind) ?? []), root]);
      }
    }
  }
  for (const value of returned) {
    const buffer = buffers.get(value);
    if (buffer) buffer.to = nodes.length;
  }
  return all;
}

const kindOf = (value: Value): string =>
  `${byteLengthOf(value.dtype === "string" ? "int64" : value.dtype, 1)}/${value.shape.join()}`;

/** The operand whose buffer a kernel writes its output into. */
function inPlace(
  node: Node,
  output: Value,
  uses: ReadonlyMap<Value, number>,
  rootOf: (value: Value) => Value,
  buffers: ReadonlyMap<Value, Buffer>,
): Value | undefined {
  if (!IN_PLACE.has(node.op)) return undefined;
  for (const value of node.inputs) {
    if (!value) continue;
    const root = rootOf(value);
    if (uses.get(root) === 1 && buffers.has(root) && kindOf(value) === kindOf(output)) return root;
  }
  return undefined;
}

/** A part of a region of the arena. */
interface Chunk {
  readonly region: Region;
  readonly offset: number;
  readonly size: number;
  readonly used: boolean;
}

interface Region {
  chunks: Chunk[];
  /** How far into it anything was written: pages behind were never touched, and take no memory. */
  touched: number;
}

const [GRAIN, FIRST_REGION, MOST_DEAD] = [256, 2 ** 20, 128 * 2 ** 20];

/**
 * ONNX Runtime's arena (bfc_arena.cc) with its default settings: regions of doubling size, the smallest free chunk that is
 * large enough, split when it is twice as large or more, joined with free neighbours. Nothing goes back to the system.
 */
export function arena() {
  const regions: Region[] = [];
  let next = FIRST_REGION;
  const replace = (region: Region, from: number, count: number, ...chunks: Chunk[]) => {
    region.chunks = region.chunks.toSpliced(from, count, ...chunks);
  };
  const extend = (size: number): Chunk => {
    const enough = next >= size;
    while (next < size) next *= 2;
    const region: Region = { chunks: [], touched: 0 };
    const chunk = { region, offset: 0, size: next, used: false };
    if (enough) next *= 2;
    region.chunks = [chunk];
    regions.push(region);
    return chunk;
  };
  return {
    allocate(bytes: number): Chunk {
      const size = Math.max(GRAIN, Math.ceil(bytes / GRAIN) * GRAIN);
      const { region, offset, size: whole } = bestFit(regions, size) ?? extend(size);
      const isSplit = whole >= 2 * size || whole - size >= MOST_DEAD;
      const chunk = { region, offset, size: isSplit ? size : whole, used: true };
      const rest =
        isSplit && whole > size ? [{ region, offset: offset + size, size: whole - size, used: false }] : [];
      replace(
        region,
        region.chunks.findIndex((each) => each.offset === offset),
        1,
        chunk,
        ...rest,
      );
      region.touched = Math.max(region.touched, offset + chunk.size);
      return chunk;
    },
    free({ region, offset }: Chunk): void {
      const at = region.chunks.findIndex((each) => each.offset === offset);
      const [before, after] = [region.chunks[at - 1], region.chunks[at + 1]];
      const joined = [
        before?.used === false ? before : undefined,
        region.chunks[at],
        after?.used === false ? after : undefined,
      ].filter((each) => each !== undefined);
      const first = joined[0] as Chunk;
      const size = joined.reduce((sum, each) => sum + each.size, 0);
      replace(region, region.chunks.indexOf(first), joined.length, {
        region,
        offset: first.offset,
        size,
        used: false,
      });
    },
    /** Bytes of it that were ever written. */
    touched: () => regions.reduce((sum, region) => sum + region.touched, 0),
  };
}

function bestFit(regions: readonly Region[], size: number): Chunk | undefined {
  let best: Chunk | undefined;
  for (const { chunks } of regions)
    for (const chunk of chunks)
      if (!chunk.used && chunk.size >= size && (!best || chunk.size < best.size)) best = chunk;
  return best;
}

/** Bytes that runs of a graph take from the arena: its buffers, and what lies unused between them. */
export function arenaBytes(buffers: readonly Buffer[]): number {
  const { allocate, free, touched } = arena();
  const starts = grouped(buffers, ({ from }) => from);
  const ends = grouped(buffers, ({ to }) => to);
  const held = new Map<Buffer, Chunk>();
  const last = Math.max(0, ...buffers.map(({ to }) => to));
  for (let at = 0; at <= last; at++) {
    for (const buffer of starts.get(at) ?? []) held.set(buffer, allocate(buffer.bytes));
    for (const buffer of ends.get(at) ?? []) {
      const chunk = held.get(buffer);
      if (chunk) free(chunk);
    }
  }
  return touched();
}

/** Bytes that the runtime takes to run a graph, and keeps for the next run. */
export const runBytes = (graph: Graph): number => arenaBytes(plannedBuffers(graph));

function grouped(buffers: readonly Buffer[], keyOf: (buffer: Buffer) => number): Map<number, Buffer[]> {
  const groups = new Map<number, Buffer[]>();
  for (const buffer of buffers) {
    const key = keyOf(buffer);
    const group = groups.get(key);
    if (group) group.push(buffer);
    else groups.set(key, [buffer]);
  }
  return groups;
}
