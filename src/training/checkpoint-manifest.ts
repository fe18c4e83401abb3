import { basename, joinPath, openFile, readText, sha256, sourceChunks, stat, writeFileAtomic } from "#io";
import { TunesmithError } from "../errors/index.js";
import { parseExact } from "./exact-json.js";

const MANIFEST = "manifest.json";
const VERSION = 1;

interface FileEntry {
  readonly size: number;
  readonly sha256: string;
}

/**
 * Completes a folder: writes the size and hash of each file. The manifest is written last and atomically, so a folder
 * with a manifest was written in full, and one without was not; no folder has to be renamed, which browsers cannot.
 */
export async function writeManifest(folder: string, names: readonly string[]): Promise<void> {
  const files: Record<string, FileEntry> = {};
  for (const name of names) {
    const path = joinPath(folder, name);
    files[name] = { size: (await stat(path)).size, sha256: await hashFile(path) };
  }
  const manifest = { formatVersion: VERSION, files };
  await writeFileAtomic(joinPath(folder, MANIFEST), `${JSON.stringify(manifest, undefined, 2)}\n`);
}

/** The manifest's path, whose presence says that the folder is complete. */
export function manifestPath(folder: string): string {
  return joinPath(folder, MANIFEST);
}

/**
 * Checks that every file of a folder is there in full.
 *
 * @param required Files the manifest must list.
 * @returns All files it lists.
 * @throws `file-not-found` without manifest or file, `file-corrupt` for a wrong size or manifest, `checksum-mismatch`
 *   for changed bytes, `format-unsupported` for a manifest of a later version.
 */
export async function verifyManifest(folder: string, required: readonly string[]): Promise<string[]> {
  const files = await readManifest(folder);
  for (const name of required) if (!files.has(name)) throw corrupt(folder, `its manifest lacks ${name}`);
  for (const [name, entry] of files) {
    const path = joinPath(folder, basename(name));
    const { size } = await stat(path);
    if (size !== entry.size) throw corrupt(folder, `${name} has ${size} bytes, expected ${entry.size}`);
    const hash = await hashFile(path);
    if (hash !== entry.sha256) {
      throw new TunesmithError("checksum-mismatch", `${path}: its bytes changed since it was written`, {
        fix: "use an older checkpoint",
        details: { path, expected: entry.sha256, found: hash },
      });
    }
  }
  return [...files.keys()];
}

async function readManifest(folder: string): Promise<Map<string, FileEntry>> {
  const path = joinPath(folder, MANIFEST);
  const manifest = parseExact(await readText(path), path) as {
    formatVersion?: unknown;
    files?: unknown;
  } | null;
  if (typeof manifest?.formatVersion === "number" && manifest.formatVersion > VERSION) {
    throw new TunesmithError(
      "format-unsupported",
      `${folder}: checkpoint format ${manifest.formatVersion}, this version reads up to ${VERSION}`,
      { fix: "resume with the version of tunesmith that wrote it, or a later one" },
    );
  }
  if (typeof manifest?.files !== "object" || manifest.files === null)
    throw corrupt(folder, "its manifest is empty");
  const entries = Object.entries(manifest.files as Record<string, Partial<FileEntry> | null>);
  return new Map(
    entries.map(([name, entry]) => {
      if (typeof entry?.size !== "number" || typeof entry.sha256 !== "string") {
        throw corrupt(folder, `its manifest is wrong at ${name}`);
      }
      return [name, { size: entry.size, sha256: entry.sha256 }];
    }),
  );
}

function corrupt(folder: string, why: string): TunesmithError {
  return new TunesmithError("file-corrupt", `${folder}: the checkpoint is not complete: ${why}`, {
    fix: "use an older checkpoint",
    details: { folder },
  });
}

async function hashFile(path: string): Promise<string> {
  const source = await openFile(path);
  try {
    return await sha256(sourceChunks(source));
  } finally {
    await source.close();
  }
}
