import { TunesmithError } from "../../errors/index.js";
import type { DroppedRow, MediaRow } from "../types.js";
import { type Archive, type ArchiveEntry, openArchive } from "./archive.js";

/** Endings of the files that are read as images. */
export const IMAGE_EXTENSIONS: readonly string[] = ["png", "jpg", "jpeg"];
/** Endings of the files that are read as sounds. */
export const AUDIO_EXTENSIONS: readonly string[] = ["wav"];

export interface MediaOptions {
  /**
   * Where the class of a file comes from: its folder, or its name up to the first `_` or `-` (`3_jackson_12.wav`).
   * Default: the folder if the files lie in several, else the name.
   */
  readonly labelFrom?: "folder" | "name";
}

/** The rows of a folder or archive of images or sounds. Close it when no file is read any more. */
export interface MediaFolder {
  readonly kind: "image" | "audio";
  readonly rows: readonly MediaRow[];
  /** Class names, sorted. */
  readonly labels: readonly string[];
  /** Files that have no class or are of another kind. */
  readonly dropped: readonly DroppedRow[];
  readonly bytes: number;
  close(): Promise<void>;
}

const endingOf = (path: string) => path.slice(path.lastIndexOf(".") + 1).toLowerCase();
const partsOf = (path: string) => path.split("/");

/** What most files of an archive are; undefined when they are neither. */
export function mediaKind(entries: readonly ArchiveEntry[]): "image" | "audio" | undefined {
  const count = (endings: readonly string[]) =>
    entries.filter(({ path }) => endings.includes(endingOf(path))).length;
  const [images, sounds] = [count(IMAGE_EXTENSIONS), count(AUDIO_EXTENSIONS)];
  if (2 * Math.max(images, sounds) <= entries.length) return undefined;
  return images >= sounds ? "image" : "audio";
}

/**
 * Opens a folder, tar file or zip file of images (PNG, JPEG) or WAV files with a class each. Nothing but the list of files
 * is read; `row.file.read()` gives the bytes of one.
 *
 * Throws what `openArchive` throws; `data-empty` when it holds neither images nor sounds.
 *
 * @example
 * ```ts
 * import { decodeImage, openMedia } from "tunesmith/data";
 * const photos = await openMedia("photos"); // photos/cat/1.jpg, photos/dog/2.jpg, ...
 * for (const { file, label } of photos.rows) {
 *   const { width, height } = decodeImage(await file.read(), file.name);
 *   console.log(label, width, height);
 * }
 * await photos.close();
 * ```
 */
export async function openMedia(path: string, options: MediaOptions = {}): Promise<MediaFolder> {
  return mediaIn(await openArchive(path), options);
}

/** The same of an archive that is open. */
export async function mediaIn(archive: Archive, options: MediaOptions = {}): Promise<MediaFolder> {
  const kind = mediaKind(archive.entries);
  if (!kind) {
    await archive.close();
    throw new TunesmithError(
      "data-empty",
      `${archive.name} holds mostly files that are neither images nor sounds`,
      {
        fix: `give a folder, .tar or .zip of ${[...IMAGE_EXTENSIONS, ...AUDIO_EXTENSIONS].join(", ")} files`,
      },
    );
  }
  const endings = kind === "image" ? IMAGE_EXTENSIONS : AUDIO_EXTENSIONS;
  const files = archive.entries.filter(({ path }) => endings.includes(endingOf(path)));
  const folders = new Set(files.map(({ path }) => partsOf(path).at(-2)));
  const from = options.labelFrom ?? (folders.size > 1 ? "folder" : "name");
  const dropped: DroppedRow[] = archive.entries
    .filter(({ path }) => !endings.includes(endingOf(path)))
    .map(({ path }) => ({ row: path, reason: `not ${kind === "image" ? "an image" : "a sound"} file` }));
  const rows: MediaRow[] = [];
  for (const file of files) {
    const label = from === "folder" ? partsOf(file.path).at(-2) : prefixOf(file.path);
    if (label) rows.push({ kind, file, label });
    else
      dropped.push({
        row: file.path,
        reason: from === "folder" ? "not in a class folder" : "no class in its name",
      });
  }
  return {
    kind,
    rows,
    labels: [...new Set(rows.map(({ label }) => String(label)))].sort(),
    dropped,
    bytes: files.reduce((sum, { size }) => sum + size, 0),
    close: archive.close,
  };
}

const prefixOf = (path: string) => /^([^_-]+)[_-]/.exec(partsOf(path).at(-1) ?? "")?.[1];
