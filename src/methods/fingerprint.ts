import { sha256, sourceChunks } from "#io";
import { TunesmithError } from "../errors/index.js";
import { reach, type Value } from "../graph/index.js";
import type { Model } from "../models/index.js";
import { bytesOf, isTensorRef, type Tensor, type TensorRef } from "../tensor/index.js";
import type { Adapter } from "./adapter.js";

/** Content hash (first 16 hex digits of SHA-256) of base tensors, by name. */
export type Fingerprint = Readonly<Record<string, string>>;

const hashes = new WeakMap<object, Promise<string>>();

/** The tensors that a weight is made of: itself, or what it is computed from (codes and scales). */
const constantsBelow = (value: Value): (Tensor | TensorRef)[] =>
  reach([value]).values.flatMap(({ source }) => (source.kind === "constant" ? [source.data] : []));

function hashOf(data: Tensor | TensorRef): Promise<string> {
  const known =
    hashes.get(data) ??
    sha256(isTensorRef(data) ? sourceChunks(data.source, data.offset, data.byteLength) : bytesOf(data));
  hashes.set(data, known);
  return known;
}

/** Hashes the named weights, of a quantised model those it was made from; each is read once per process. */
export async function fingerprint(model: Model, names: Iterable<string>): Promise<Fingerprint> {
  const result: Record<string, string> = {};
  for (const name of [...new Set(names)].sort()) {
    const value = (model.quantization?.base ?? model).weights.get(name);
    const parts = value ? constantsBelow(value) : [];
    if (parts.length === 0) throw new TunesmithError("tensor-not-found", `the base has no tensor '${name}'`);
    const known = await Promise.all(parts.map(hashOf));
    const whole = known.length === 1 ? known[0] : await sha256(new TextEncoder().encode(known.join()));
    result[name] = String(whole).slice(0, 16);
  }
  return result;
}

/** One hash over a fingerprint, for receipts. */
export const fingerprintHash = async (prints: Fingerprint): Promise<string> =>
  (await sha256(new TextEncoder().encode(JSON.stringify(prints)))).slice(0, 16);

/** Throws `wrong-base` naming the tensors whose content differs from what the adapter was trained on. */
export async function checkFingerprint(model: Model, expected: Fingerprint, adapter: string): Promise<void> {
  const names = Object.keys(expected);
  const missing = names.filter((name) => !model.weights.has(name));
  const actual = await fingerprint(
    model,
    names.filter((name) => model.weights.has(name)),
  );
  const different = names.filter((name) => actual[name] !== expected[name]);
  if (different.length === 0) return;
  throw new TunesmithError(
    "wrong-base",
    `${adapter} was trained on another base: ${different.length} of ${names.length} tensors differ (${different.slice(0, 3).join(", ")}${missing.length > 0 ? `, ${missing.length} are missing` : ""})`,
    {
      fix: "load the base it was trained on, or pass { anyBase: true } to apply it regardless",
      details: { different, missing },
    },
  );
}

/** Base tensors an adapter acts on, by name. */
export function touchedWeights(adapter: Adapter): string[] {
  const sites = [...adapter.sites.values()].map((site) => site.weightName);
  const saved = adapter.saved.map((entry) => entry.weightName);
  return [...new Set([...sites, ...saved, ...adapter.tokens.map((entry) => entry.weightName)])];
}
