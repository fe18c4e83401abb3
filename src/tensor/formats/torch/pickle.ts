import { TunesmithError } from "../../../errors/index.js";
import { quote } from "../../safetensors/header.js";
import { type Cursor, latin1 } from "../cursor.js";

/** What a name in a pickle stands for: a value, or a function over the arguments in the file. Nothing else exists. */
export type PickleGlobal = { readonly value: unknown } | { readonly call: (args: unknown[]) => unknown };

/** What the file may ask for. */
export interface PickleHost {
  /** The closed list; undefined refuses the file. */
  find(module: string, name: string): PickleGlobal | undefined;
  /** The object behind a persistent id, such as a storage. */
  persistent(id: unknown): unknown;
  /** Gives an object its state; false when it takes none. */
  setState(target: unknown, state: unknown): boolean;
}

interface Machine {
  readonly cursor: Cursor;
  readonly host: PickleHost;
  stack: unknown[];
  readonly marks: unknown[][];
  readonly memo: Map<number, unknown>;
  /** Items handed to functions so far: what is memoised can be handed over again and again. */
  charged: number;
}

/** Stands on the stack for a name of the closed list that can be called. */
class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: unknown[]) => unknown,
  ) {}
}

/**
 * Runs a pickle (protocols 0 to 5) over a closed list of names. A pickle is a program; this machine only builds numbers,
 * text, lists, maps and what the host's functions return, and refuses every other name before anything is called.
 *
 * Throws `unsafe-pickle` naming what was asked for, `file-corrupt`.
 */
export function unpickle(cursor: Cursor, host: PickleHost): unknown {
  const machine: Machine = { cursor, host, stack: [], marks: [], memo: new Map(), charged: 0 };
  for (;;) {
    const code = cursor.u8();
    if (code === 0x2e) return pop(machine);
    const operation = operations[code];
    if (!operation) throw cursor.bad(`operation ${code} at ${cursor.position - 1} does not exist`);
    operation(machine);
  }
}

function pop(m: Machine): unknown {
  if (m.stack.length === 0) throw m.cursor.bad(`nothing is on the stack at ${m.cursor.position}`);
  return m.stack.pop();
}

function top(m: Machine): unknown {
  if (m.stack.length === 0) throw m.cursor.bad(`nothing is on the stack at ${m.cursor.position}`);
  return m.stack[m.stack.length - 1];
}

function popMark(m: Machine): unknown[] {
  const below = m.marks.pop();
  if (!below) throw m.cursor.bad(`no mark is set at ${m.cursor.position}`);
  const items = m.stack;
  m.stack = below;
  return items;
}

function popArray(m: Machine): unknown[] {
  const value = pop(m);
  if (Array.isArray(value)) return value;
  throw m.cursor.bad(`no tuple or list where one belongs, at ${m.cursor.position}`);
}

function popString(m: Machine): string {
  const value = pop(m);
  if (typeof value === "string") return value;
  throw m.cursor.bad(`no text where it belongs, at ${m.cursor.position}`);
}

/** A name of the closed list. Throws `unsafe-pickle` for every other. */
function lookUp(m: Machine, module: string, name: string): unknown {
  const found = m.host.find(module, name);
  if (found === undefined) throw unsafe(m, `${module}.${name}`);
  return "call" in found ? new Callable(`${module}.${name}`, found.call) : found.value;
}

function unsafe(m: Machine, name: string): TunesmithError {
  return new TunesmithError(
    "unsafe-pickle",
    `${m.cursor.file}: the file asks Python for ${quote(name)}, which is not plain tensor data`,
    {
      fix: "save only the state dict (torch.save(model.state_dict(), path)), or convert the file to safetensors where you trust it",
      details: { name },
    },
  );
}

function call(m: Machine, args: unknown[], target: unknown): void {
  if (!(target instanceof Callable))
    throw m.cursor.bad(`something is called that is no function, at ${m.cursor.position}`);
  charge(m, args, 2);
  m.stack.push(target.call(args));
}

/** Bounds the work of functions by the bytes read, so that a small file cannot ask for endless copies. */
function charge(m: Machine, value: unknown, depth: number): void {
  if (typeof value !== "string" && !Array.isArray(value) && !(value instanceof Uint8Array)) return;
  m.charged += value.length;
  if (m.charged > 16 * m.cursor.position + 65536) throw m.cursor.bad("it copies the same data over and over");
  if (depth > 0 && Array.isArray(value)) for (const item of value) charge(m, item, depth - 1);
}

function append(m: Machine, items: readonly unknown[]): void {
  const list = top(m);
  if (list instanceof Set) for (const item of items) list.add(item);
  else if (Array.isArray(list)) for (const item of items) list.push(item);
  else throw m.cursor.bad(`items without a list at ${m.cursor.position}`);
}

function setItems(m: Machine, items: readonly unknown[]): void {
  const map = top(m);
  if (!(map instanceof Map) || items.length % 2 !== 0) {
    throw m.cursor.bad(`items without a dictionary at ${m.cursor.position}`);
  }
  for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
}

function build(m: Machine): void {
  const state = pop(m);
  const target = top(m);
  charge(m, state, 2);
  // The attributes of a dictionary (a state dict's `_metadata`) say nothing about its tensors.
  if (target instanceof Map || m.host.setState(target, state)) return;
  throw m.cursor.bad(`a state for something that has none, at ${m.cursor.position}`);
}

function recall(m: Machine, index: number): void {
  if (!m.memo.has(index)) throw m.cursor.bad(`object ${index} is used before it is made`);
  m.stack.push(m.memo.get(index));
}

/** Two's complement, little-endian, of any length; a number when it is exact. */
function long(bytes: Uint8Array): number | bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] as number);
  return narrow(BigInt.asIntN(Math.max(8, bytes.length * 8), value));
}

const narrow = (value: bigint): number | bigint =>
  BigInt(Number(value)) === value && Number.isSafeInteger(Number(value)) ? Number(value) : value;

/** Integers beyond a few hundred bits occur in no checkpoint, and building them is quadratic. */
function longOf(m: Machine, length: number): number | bigint {
  if (length > 64) throw m.cursor.bad(`an integer of ${length} bytes`);
  return long(m.cursor.take(length));
}

/** The integer of a text line, with Python 2's booleans (`01`, `00`) and trailing `L`. */
function lineInteger(m: Machine): number | bigint | boolean {
  const text = m.cursor.line();
  if (text === "01" || text === "00") return text === "01";
  if (/^[+-]?\d{1,160}L?$/.test(text)) return narrow(BigInt(text.replace(/L$/, "").replace(/^\+/, "")));
  throw m.cursor.bad(`no integer at ${m.cursor.position}`);
}

function lineFloat(m: Machine): number {
  const text = m.cursor.line();
  if (/^[+-]?(inf|nan)$/.test(text))
    return text.endsWith("nan") ? Number.NaN : text[0] === "-" ? -Infinity : Infinity;
  const value = Number(text);
  if (text !== "" && !Number.isNaN(value)) return value;
  throw m.cursor.bad(`no number at ${m.cursor.position}`);
}

/** A quoted Python 2 string; escapes other than of quotes and backslashes occur in no checkpoint. */
function lineString(m: Machine): string {
  const text = m.cursor.line();
  if (/^'[^'\\]*'$|^"[^"\\]*"$/.test(text)) return text.slice(1, -1);
  throw m.cursor.bad(`no plain string at ${m.cursor.position}`);
}

/** Python 2's byte strings, which are text where checkpoints have them. */
function byteString(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return latin1(bytes);
  }
}

/** Text of protocol 0, where backslashes escape what is not latin-1. */
function escaped(text: string): string {
  return text.replace(
    /\\u([0-9a-fA-F]{4})|\\U00(0[0-9a-fA-F]{5}|10[0-9a-fA-F]{4})/g,
    (_, short?: string, long?: string) => String.fromCodePoint(Number.parseInt(short ?? long ?? "", 16)),
  );
}

function indexOf(m: Machine): number {
  const value = lineInteger(m);
  if (typeof value === "number") return value;
  throw m.cursor.bad(`no index at ${m.cursor.position}`);
}

type Operation = (m: Machine) => void;
const push =
  (value: (m: Machine) => unknown): Operation =>
  (m) =>
    m.stack.push(value(m));
const tuple =
  (length: number): Operation =>
  (m) => {
    const items = Array.from({ length }, () => pop(m));
    m.stack.push(items.reverse());
  };
const memoize =
  (index: (m: Machine) => number): Operation =>
  (m) => {
    m.memo.set(index(m), top(m));
  };

/** Makes an object of a class: like a call, since the classes of the closed list are functions here. */
const newObject = (m: Machine) => {
  const args = popArray(m);
  call(m, args, pop(m));
};

/** By opcode; the letters are those of Python's pickletools. */
const operations: Readonly<Record<number, Operation>> = {
  128: (m) => {
    const protocol = m.cursor.u8();
    if (protocol > 5) throw m.cursor.bad(`pickle protocol ${protocol}`);
  },
  149: (m) => {
    m.cursor.u64();
  },
  // ( mark, 0 pop, 1 pop mark, 2 duplicate
  40: (m) => {
    m.marks.push(m.stack);
    m.stack = [];
  },
  48: (m) => {
    if (m.stack.length > 0) m.stack.pop();
    else popMark(m);
  },
  49: (m) => {
    popMark(m);
  },
  50: push(top),
  // N None, true, false
  78: push(() => null),
  136: push(() => true),
  137: push(() => false),
  // J, K, M fixed integers; I, L text; long1, long4
  74: push((m) => m.cursor.i32()),
  75: push((m) => m.cursor.u8()),
  77: push((m) => m.cursor.u16()),
  73: push(lineInteger),
  76: push(lineInteger),
  138: push((m) => longOf(m, m.cursor.u8())),
  139: push((m) => longOf(m, m.cursor.i32())),
  // F text, G big-endian double
  70: push(lineFloat),
  71: push((m) => m.cursor.view(8).getFloat64(0, false)),
  // S, T, U byte strings of Python 2; V, X, short, 8-byte text
  83: push(lineString),
  84: push((m) => byteString(m.cursor.take(m.cursor.i32()))),
  85: push((m) => byteString(m.cursor.take(m.cursor.u8()))),
  86: push((m) => escaped(m.cursor.line())),
  88: push((m) => m.cursor.text(m.cursor.u32())),
  140: push((m) => m.cursor.text(m.cursor.u8())),
  141: push((m) => m.cursor.text(m.cursor.u64())),
  // B, C, 8-byte bytes, bytearray
  66: push((m) => m.cursor.take(m.cursor.u32()).slice()),
  67: push((m) => m.cursor.take(m.cursor.u8()).slice()),
  142: push((m) => m.cursor.take(m.cursor.u64()).slice()),
  150: push((m) => m.cursor.take(m.cursor.u64()).slice()),
  // ] list, l list of mark, a append, e appends
  93: push(() => []),
  108: (m) => {
    const items = popMark(m);
    m.stack.push(items);
  },
  97: (m) => {
    const item = pop(m);
    append(m, [item]);
  },
  101: (m) => append(m, popMark(m)),
  // ) t and the short tuples
  41: push(() => []),
  116: (m) => {
    const items = popMark(m);
    m.stack.push(items);
  },
  133: tuple(1),
  134: tuple(2),
  135: tuple(3),
  // } dictionary, d of mark, s item, u items
  125: push(() => new Map()),
  100: (m) => {
    const items = popMark(m);
    m.stack.push(new Map());
    setItems(m, items);
  },
  115: (m) => {
    const value = pop(m);
    const key = pop(m);
    setItems(m, [key, value]);
  },
  117: (m) => setItems(m, popMark(m)),
  // sets
  143: push(() => new Set()),
  144: (m) => append(m, popMark(m)),
  145: (m) => {
    const items = popMark(m);
    m.stack.push(new Set(items));
  },
  // g, h, j get; p, q, r put; memoize
  103: (m) => recall(m, indexOf(m)),
  104: (m) => recall(m, m.cursor.u8()),
  106: (m) => recall(m, m.cursor.u32()),
  112: memoize(indexOf),
  113: memoize((m) => m.cursor.u8()),
  114: memoize((m) => m.cursor.u32()),
  148: memoize((m) => m.memo.size),
  // c global, stack global, i instance, R reduce, new object, o, b build
  99: push((m) => lookUp(m, m.cursor.line(), m.cursor.line())),
  147: (m) => {
    const name = popString(m);
    m.stack.push(lookUp(m, popString(m), name));
  },
  105: (m) => {
    const target = lookUp(m, m.cursor.line(), m.cursor.line());
    const args = popMark(m);
    call(m, args, target);
  },
  82: newObject,
  129: newObject,
  111: (m) => {
    const [target, ...args] = popMark(m);
    call(m, args, target);
  },
  98: build,
  // P, Q persistent ids
  80: push((m) => m.host.persistent(m.cursor.line())),
  81: (m) => {
    const id = pop(m);
    m.stack.push(m.host.persistent(id));
  },
};
