/** Constants on their way into the browser's runtime: named regions, read only while a session is created. */
import { TunesmithError } from "../../errors/index.js";
import { bytesOf, isTensorRef, type Tensor, type TensorRef } from "../../tensor/index.js";
import type { ExternalData, ExternalLocation } from "./types.js";

/** Below this a constant travels inside the model bytes, which the runtime keeps twice for a moment. */
const INLINE_BYTES = 16 * 1024;

const locations = new WeakMap<object, ExternalLocation>();
/** Weak, so that a name does not keep weights alive that no graph holds any more. */
const owners = new Map<string, WeakRef<Tensor | TensorRef>>();
const forget = new FinalizationRegistry<string>((location) => owners.delete(location));
let count = 0;

/** Names a constant so that `externalBytes` finds it again; small ones in memory get no name and stay inline. */
export function placeConstant(data: Tensor | TensorRef): ExternalLocation | undefined {
  const length = isTensorRef(data) ? data.byteLength : byteLength(data);
  if (!isTensorRef(data) && (length < INLINE_BYTES || data.dtype === "string")) return undefined;
  const known = locations.get(data);
  if (known) return known;
  const place = { location: `constant-${++count}`, offset: 0, length };
  locations.set(data, place);
  owners.set(place.location, new WeakRef(data));
  forget.register(data, place.location);
  return place;
}

const byteLength = (data: Tensor): number => (data.dtype === "string" ? 0 : bytesOf(data).byteLength);

/** Reads what the names stand for. Tensors in memory are not copied; references are read from their source. */
export async function externalBytes(names: Iterable<string>): Promise<ExternalData[]> {
  return Promise.all(
    [...names].map(async (location) => {
      const owner = owners.get(location)?.deref();
      if (!owner)
        throw new TunesmithError(
          "runtime-failed",
          `constant '${location}' is gone before its session was created`,
        );
      const data = isTensorRef(owner)
        ? await owner.source.read(owner.offset, owner.byteLength)
        : bytesOf(owner);
      return { location, data };
    }),
  );
}
