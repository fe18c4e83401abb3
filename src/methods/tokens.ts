import { TunesmithError } from "../errors/index.js";
import { constant, ops, type Value } from "../graph/index.js";
import { frozenTensor, type Parameter, type Site } from "../models/index.js";
import { tensor, toFloat32 } from "../tensor/index.js";
import { parameter } from "./adapter.js";
import type { SiteConfig } from "./method.js";

/** Rows of an embedding that are trained in place of the base's; a tied output head sees them too. */
export interface TokenRows {
  /** Module path of the embedding. */
  readonly path: string;
  readonly weightName: string;
  readonly ids: readonly number[];
  /** `[ids, width]`, the full rows. */
  readonly parameter: Parameter;
  /** The base's rows, constant. */
  readonly base: Value;
}

/** Creates the rows `trainableTokens` asks for. Throws `target-not-found`, `config-invalid` (an id out of range). */
export async function tokenRows(
  sites: readonly Site[],
  adapter: string,
  wanted: SiteConfig["trainableTokens"],
): Promise<TokenRows[]> {
  if (wanted === undefined) return [];
  const embeddings = sites.filter((site) => site.kind === "embedding");
  const first = embeddings[0];
  const named = Array.isArray(wanted)
    ? [[first?.path ?? "", wanted as readonly number[]] as const]
    : Object.entries(wanted as Record<string, readonly number[]>);
  return Promise.all(named.map(([name, ids]) => rowsOf(embeddings, adapter, name, ids)));
}

async function rowsOf(
  embeddings: readonly Site[],
  adapter: string,
  name: string,
  ids: readonly number[],
): Promise<TokenRows> {
  const site = embeddings.find(({ path }) => path === name || path.endsWith(`.${name}`));
  if (!site) {
    throw new TunesmithError("target-not-found", `no embedding '${name}' for trainable tokens`, {
      fix: `embeddings: ${embeddings.map(({ path }) => path).join(", ")}`,
    });
  }
  const bad = ids.find((id) => id >= site.inFeatures);
  if (bad !== undefined || ids.length === 0) {
    throw new TunesmithError(
      "config-invalid",
      `trainable token ${bad ?? "list is empty"}: ${site.path} has ${site.inFeatures} rows`,
      { fix: `give ids from 0 to ${site.inFeatures - 1}` },
    );
  }
  const table = toFloat32(await frozenTensor(site.weight));
  const width = site.outFeatures;
  const rows = new Float32Array(ids.length * width);
  for (const [at, id] of ids.entries()) rows.set(table.subarray(id * width, (id + 1) * width), at * width);
  return {
    path: site.path,
    weightName: site.weightName,
    ids,
    parameter: {
      ...parameter(`${adapter}/${site.path}.trainable_tokens_delta`, [ids.length, width], rows, true),
      rare: true,
    },
    base: constant(tensor("float32", [ids.length, width], rows.slice())),
  };
}

const idsConstant = (rows: TokenRows) =>
  constant(tensor("int64", [rows.ids.length], BigInt64Array.from(rows.ids, BigInt)));

/** Embedding output `[..., width]` with the trained rows: adds (row − base) where an id is one of them. */
export function embedTokens(y: Value, ids: Value, rows: TokenRows): Value {
  const hit = ops.cast(ops.equal(ops.unsqueeze(ids, -1), idsConstant(rows)), "float32");
  return ops.add(y, ops.matmul(hit, ops.sub(rows.parameter.value, rows.base)));
}

/** Logits `[tokens, vocab]` of a head tied to the embedding: the trained tokens' columns move too. */
export function scoreTokens(y: Value, x: Value, rows: TokenRows): Value {
  const change = ops.gemm(x, ops.sub(rows.parameter.value, rows.base), undefined, { transB: true });
  const columns = ops.equal(
    ops.unsqueeze(idsConstant(rows), 1),
    ops.unsqueeze(ops.arange(y.shape[1] as number), 0),
  );
  return ops.gemm(change, ops.cast(columns, "float32"), y);
}
