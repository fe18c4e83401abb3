import type { ByteSource } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { byteLengthOf } from "../../dtype.js";
import { corrupt, quote } from "../../safetensors/header.js";
import { type Cursor, parseGrowing } from "../cursor.js";
import { type Locate, type PickledStorage, torchHost } from "./globals.js";
import { checkLength, type OpenedPickle, storedTensor } from "./locate.js";
import { type PickleHost, unpickle } from "./pickle.js";

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;

interface LegacyHead {
  readonly value: unknown;
  readonly keys: readonly string[];
  readonly storages: ReadonlyMap<string, PickledStorage>;
  readonly end: number;
}

/** The format before PyTorch 1.6: five pickles (magic, protocol, machine, object, storage keys), then the storages. */
export async function openLegacy(source: ByteSource): Promise<OpenedPickle> {
  const places = new Map<string, { readonly offset: number; readonly bytes: number }>();
  const locate: Locate = async (tensor) => {
    const place = places.get(tensor.storage.key);
    if (!place) throw missing(source, tensor.storage.key);
    checkLength(source, tensor.storage, place.bytes, tensor.dtype);
    return storedTensor(source, place.offset, tensor);
  };
  const head = await parseGrowing(source, 0, "PyTorch", (cursor) => readHead(source, cursor, locate));
  let at = head.end;
  for (const key of head.keys) {
    const storage = head.storages.get(key);
    if (!storage) throw missing(source, key);
    const count = await readCount(source, at);
    const width = storage.type.dtype === undefined ? 1 : byteLengthOf(storage.type.dtype, 1);
    if (count * width > source.size - at - 8) throw damaged(source, `storage ${quote(key)} is cut off`);
    places.set(key, { offset: at + 8, bytes: count * width });
    at += 8 + count * width;
  }
  return { value: head.value, locate };
}

function readHead(source: ByteSource, cursor: Cursor, locate: Locate): LegacyHead {
  const plain: PickleHost = { find: () => undefined, persistent: () => null, setState: () => false };
  if (cursor.left < 16 || unpickleMagic(cursor, plain) !== MAGIC) throw notTorch(source);
  if (unpickle(cursor, plain) !== PROTOCOL) throw notTorch(source);
  const machine = unpickle(cursor, plain);
  if (machine instanceof Map && machine.get("little_endian") === false) {
    throw unsupported(source, "it was written on a big-endian machine");
  }
  const storages = new Map<string, PickledStorage>();
  const host = torchHost(source.name, locate);
  const persistent = (id: unknown) => {
    const storage = host.persistent(id) as PickledStorage;
    // Views of one storage announce their own length; the first mention is the storage itself.
    if (!storages.has(storage.key)) storages.set(storage.key, storage);
    return storage;
  };
  const value = unpickle(cursor, { ...host, persistent });
  const keys = unpickle(cursor, plain);
  if (!Array.isArray(keys) || new Set(keys).size !== keys.length)
    throw damaged(source, "its list of storages is damaged");
  return { value, keys: keys.map(String), storages, end: cursor.position };
}

/** The first pickle; a file that is no pickle at all is told apart from a damaged one. */
function unpickleMagic(cursor: Cursor, host: PickleHost): unknown {
  try {
    return unpickle(cursor, host);
  } catch (error) {
    if (error instanceof TunesmithError) return undefined;
    throw error;
  }
}

async function readCount(source: ByteSource, at: number): Promise<number> {
  if (at + 8 > source.size) throw damaged(source, "its storages are cut off");
  const bytes = await source.read(at, 8);
  const count = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigInt64(0, true));
  if (count < 0 || !Number.isSafeInteger(count)) throw damaged(source, "a storage has an impossible length");
  return count;
}

const missing = (source: ByteSource, key: string) => damaged(source, `storage ${quote(key)} is missing`);

const damaged = (source: ByteSource, why: string) =>
  corrupt(source.name, why, "copy or download the file again");

const notTorch = (source: ByteSource) => unsupported(source, "torch.save did not write it");

function unsupported(source: ByteSource, why: string): TunesmithError {
  return new TunesmithError(
    "format-unsupported",
    `${source.name} cannot be read as a PyTorch checkpoint: ${why}`,
    {
      fix: "write it with torch.save(model.state_dict(), path)",
      details: { file: source.name },
    },
  );
}
