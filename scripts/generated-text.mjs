// Text that scripts write into documents: whole files, or what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));

const read = (file) => (existsSync(join(root, file)) ? readFileSync(join(root, file), "utf8") : "");

/** The file's text with new content between the markers `name`. Throws when it has no such markers. */
export function withSection(file, name, content) {
  const text = read(file);
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${file} lacks ${begin} ... ${end}`);
  return `${text.slice(0, from + begin.length)}\n${content.trim()}\n${text.slice(to)}`;
}

/** Writes the file if its text differs; with `check` only says so. Gives whether it differed. */
export function put(file, text, check = false) {
  if (read(file) === text) return false;
  if (!check) writeFileSync(join(root, file), text);
  console.log(check ? `${file} is not what npm run docs writes` : `wrote ${file}`);
  return true;
}

/** A Markdown table; cells are one line, and `|` in them is escaped. */
export function table(head, rows) {
  const cell = (value) => String(value).replaceAll("|", "\\|").replaceAll("\n", " ");
  const line = (cells) => `| ${cells.map(cell).join(" | ")} |`;
  return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n");
}
