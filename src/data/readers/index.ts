export { type Archive, type ArchiveEntry, openArchive } from "./archive.js";
export { type DataFile, readUnpacked } from "./bytes.js";
export { type FolderOptions, TEXT_EXTENSIONS } from "./folder.js";
export { readIdx } from "./idx.js";
export type { Encoding } from "./lines.js";
export {
  AUDIO_EXTENSIONS,
  IMAGE_EXTENSIONS,
  type MediaFolder,
  type MediaOptions,
  openMedia,
} from "./media.js";
export { type RawRecord, type RecordFormat, type RecordOptions, readRecords } from "./records.js";
export { readSeries, type Series, seriesWindows, type WindowOptions } from "./series.js";
