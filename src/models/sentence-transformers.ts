import { dirname, fileExists, joinPath, makeDir, readText, writeFileAtomic } from "#io";
import { TunesmithError } from "../errors/index.js";
import { type Pooling, poolingSchema } from "./architectures/parts/pooling.js";
import { readJson } from "./checkpoint.js";

/** Keys of `1_Pooling/config.json` that name one way each. */
const MODES: Readonly<Record<string, Pooling["mode"]>> = {
  pooling_mode_mean_tokens: "mean",
  pooling_mode_cls_token: "cls",
  pooling_mode_max_tokens: "max",
  pooling_mode_mean_sqrt_len_tokens: "mean_sqrt_len",
};

/**
 * How a sentence-transformers folder makes one vector of a text, by its `modules.json`; undefined for other folders.
 *
 * Throws `file-corrupt`, `architecture-unsupported` for modules that change vectors in ways we lack.
 */
export async function readPooling(folder: string): Promise<Pooling | undefined> {
  const path = joinPath(folder, "modules.json");
  if (!(await fileExists(path))) return undefined;
  let pooling: Pooling = poolingSchema.parse({});
  for (const { kind, place } of await modulesOf(path)) {
    if (kind === "Transformer") continue;
    if (kind === "Pooling")
      pooling = { ...pooling, mode: await modeIn(joinPath(folder, place, "config.json")) };
    else if (kind === "Normalize") pooling = { ...pooling, normalize: true };
    else
      throw unsupported(
        `${path}: module '${kind}'`,
        "it changes the vectors; load the model for another task",
      );
  }
  return pooling;
}

async function modulesOf(path: string): Promise<{ kind: string; place: string }[]> {
  const text = await readText(path);
  try {
    const list: unknown = JSON.parse(text);
    if (Array.isArray(list)) {
      return list.map((item: { type?: unknown; path?: unknown }) => ({
        kind: String(item.type).split(".").at(-1) ?? "",
        place: String(item.path ?? ""),
      }));
    }
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${path} is not valid JSON`, { cause, fix: "restore the file" });
  }
  throw new TunesmithError("file-corrupt", `${path} does not hold a list of modules`, {
    fix: "restore the file",
  });
}

async function modeIn(path: string): Promise<Pooling["mode"]> {
  const config = await readJson(path);
  const named = poolingSchema.shape.mode.safeParse(config.pooling_mode);
  if (config.pooling_mode !== undefined && named.success) return named.data;
  const chosen = Object.keys(config).filter((key) => key.startsWith("pooling_mode_") && config[key] === true);
  const mode = MODES[String(chosen[0])];
  if (mode && chosen.length === 1) return mode;
  throw unsupported(
    `${path}: pooling by ${chosen.join(" and ") || String(config.pooling_mode)}`,
    `supported: one of ${Object.keys(MODES).join(", ")}`,
  );
}

const unsupported = (what: string, fix: string) =>
  new TunesmithError("architecture-unsupported", `${what} is not supported`, { fix });

/** The files that make a saved folder a sentence-transformers one; gives their names. */
export async function writePooling(
  folder: string,
  { mode, normalize }: Pooling,
  width: number,
): Promise<string[]> {
  const kinds = ["Transformer", "Pooling", ...(normalize ? ["Normalize"] : [])];
  const modules = kinds.map((kind, idx) => ({
    idx,
    name: String(idx),
    path: idx === 0 ? "" : `${idx}_${kind}`,
    type: `sentence_transformers.models.${kind}`,
  }));
  const flags = Object.fromEntries(Object.entries(MODES).map(([key, value]) => [key, value === mode]));
  const files: [string, unknown][] = [
    ["modules.json", modules],
    ["1_Pooling/config.json", { word_embedding_dimension: width, ...flags }],
  ];
  for (const [name, content] of files) {
    await makeDir(dirname(joinPath(folder, name)));
    await writeFileAtomic(joinPath(folder, name), `${JSON.stringify(content, undefined, 2)}\n`);
  }
  return files.map(([name]) => name);
}
