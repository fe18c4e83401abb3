import { TunesmithError } from "../../errors/index.js";

const CLASSES: Readonly<Record<string, string>> = {
  d: "\\p{Nd}",
  w: "\\p{L}\\p{N}_",
  s: "\\s\\x1c-\\x1f\\x85",
};
const INLINE = /^\(\?([aimsux]+)\)/;
/** Characters that the v flag wants escaped inside a class. */
const CLASS_SYNTAX = new Set("()[]{}/|&!#%,.:;<=>@`~$*+?^\"'");
/** Characters that may stay escaped outside a class. */
const SYNTAX = new Set("^$\\.*+?()[]{}|/");

/**
 * A regular expression in Python's spelling (`re`) as a JavaScript one: inline flags at the start, `(?P<name>...)`,
 * `(?P=name)`, `\A`, `\Z`, needless escapes, `$` before a last line end, and Unicode `\d`, `\w`, `\s`; `\b` knows ASCII
 * letters only.
 *
 * @param flags JavaScript flags to add
 * @throws `config-invalid` for what JavaScript has no word for, such as `x` or conditionals.
 */
export function pythonRegExp(pattern: string, flags = ""): RegExp {
  const inline = INLINE.exec(pattern)?.[1] ?? "";
  const source = pattern.slice(inline === "" ? 0 : inline.length + 3);
  if (inline.includes("x")) refuse(pattern, "the flag x (verbose)");
  const used = new Set([...flags, "v", ...Array.from(inline).filter((flag) => "ims".includes(flag))]);
  try {
    return new RegExp(translate(source, inline.includes("m")), [...used].join(""));
  } catch (cause) {
    return refuse(pattern, (cause as Error).message, cause);
  }
}

function translate(source: string, multiline: boolean): string {
  let out = "";
  let inClass = false;
  let classStart = 0;
  for (let at = 0; at < source.length; at++) {
    const char = source[at] as string;
    const next = source[at + 1] ?? "";
    if (char === "\\") {
      out += escaped(next, inClass);
      at++;
    } else if (inClass) {
      const first = at === classStart || (at === classStart + 1 && source[classStart] === "^");
      if (char === "]" && !first) inClass = false;
      if (char === "^" && at === classStart) out += "^";
      else if (char === "-" && (first || next === "]")) out += "\\-";
      else out += inClass && CLASS_SYNTAX.has(char) ? `\\${char}` : char;
    } else if (char === "[") {
      [inClass, classStart] = [true, at + 1];
      out += "[";
    } else if (char === "(" && source.startsWith("(?P<", at)) {
      out += "(?<";
      at += 3;
    } else if (char === "(" && source.startsWith("(?P=", at)) {
      const end = source.indexOf(")", at);
      out += `\\k<${source.slice(at + 4, end)}>`;
      at = end;
    } else if (char === "$" && !multiline) out += "(?=\\n?(?![\\s\\S]))";
    else if (char === "{" && !/^\{\d*,?\d*\}/.test(source.slice(at))) out += "\\{";
    else if (char === "{" && next === ",") {
      out += "{0";
    } else if (char === "}" && !/\{\d*,?\d*$/.test(source.slice(0, at))) out += "\\}";
    else out += char;
  }
  return out;
}

function escaped(char: string, inClass: boolean): string {
  const members = CLASSES[char];
  if (members !== undefined) return inClass ? members : `[${members}]`;
  const others = CLASSES[char.toLowerCase()];
  if (others !== undefined) return `[^${others}]`;
  if (!inClass && char === "A") return "(?<![\\s\\S])";
  if (!inClass && char === "Z") return "(?![\\s\\S])";
  if (/[A-Za-z0-9]/.test(char)) return `\\${char}`;
  if (inClass) return CLASS_SYNTAX.has(char) || char === "\\" || char === "-" ? `\\${char}` : char;
  return SYNTAX.has(char) ? `\\${char}` : char;
}

function refuse(pattern: string, problem: string, cause?: unknown): never {
  throw new TunesmithError("config-invalid", `regular expression '${pattern}': ${problem}`, {
    fix: "write it with what both Python and JavaScript know",
    cause,
  });
}
