import type { Module } from "../models/index.js";
import { formatCount } from "./ui.js";

interface Row {
  readonly label: string;
  readonly text: string;
  readonly count: string;
}

/**
 * The tree with lines, equal neighbours in one: `layers.{0-5}`.
 *
 * @param marked Paths that get a mark in front of what they are.
 */
export function drawModules(root: Module, marked: ReadonlySet<string> = new Set()): string {
  const rows = drawChildren(root, "", marked);
  const width = Math.max(...rows.map(({ label }) => label.length));
  const counts = Math.max(...rows.map(({ count }) => count.length));
  return rows
    .map(({ label, count, text }) => `  ${label.padEnd(width)}  ${count.padStart(counts)}  ${text}`.trimEnd())
    .join("\n");
}

function drawChildren(parent: Module, indent: string, marked: ReadonlySet<string>): Row[] {
  const groups = collapsed(parent.children, marked);
  return groups.flatMap(({ name, module, times }, at) => {
    const isLast = at === groups.length - 1;
    // A chain of containers with one child each takes one line.
    let [shown, label] = [module, name];
    while (shown.children.length === 1 && Object.keys(shown.shapes).length === 0 && shown.children[0]) {
      shown = shown.children[0];
      label = `${label}.${nameOf(shown)}`;
    }
    const row = {
      label: `${indent}${isLast ? "└─ " : "├─ "}${label}`,
      count: times > 1 ? `${times} × ${formatCount(module.parameters)}` : formatCount(module.parameters),
      text: `${marked.has(shown.path) ? "● " : ""}${describe(shown)}`,
    };
    return [row, ...drawChildren(shown, `${indent}${isLast ? "   " : "│  "}`, marked)];
  });
}

const nameOf = ({ path }: Module): string => path.slice(path.lastIndexOf(".") + 1);

interface Group {
  readonly name: string;
  readonly module: Module;
  readonly times: number;
}

/** Neighbours that are numbered, and equal but for the number. */
function collapsed(children: readonly Module[], marked: ReadonlySet<string>): Group[] {
  const groups: { first: string; last: string; key: string; module: Module; times: number }[] = [];
  for (const module of children) {
    const [name, key] = [nameOf(module), signature(module, module.path.length, marked)];
    const before = groups.at(-1);
    if (before && before.key === key && /^\d+$/.test(name) && Number(name) === Number(before.last) + 1) {
      before.last = name;
      before.times++;
    } else groups.push({ first: name, last: name, key, module, times: 1 });
  }
  return groups.map(({ first, last, module, times }) => ({
    name: times > 1 ? `{${first}-${last}}` : first,
    module,
    times,
  }));
}

/** All that is shown of a module but its own place. */
const signature = (module: Module, cut: number, marked: ReadonlySet<string>): string =>
  JSON.stringify([
    module.path.slice(cut),
    marked.has(module.path),
    describe(module),
    module.children.map((child) => signature(child, cut, marked)),
  ]);

const show = (shape: readonly number[] | undefined) => `[${(shape ?? []).join(", ")}]`;

/** `linear 288 → 768, bias`. */
function describe({ kind, map, shapes, codes, tiedTo, slices, residuals, children }: Module): string {
  const words: string[] = [kind === "module" ? "" : kind];
  if (map) words[0] = `${map.isHead ? "head, " : ""}${map.kind} ${sizes(map, shapes.weight)}`;
  else if (Object.keys(shapes).length > 0)
    words[0] = `${kind} ${Object.entries(shapes)
      .map(([leaf, shape]) => `${leaf} ${show(shape)}`)
      .join(", ")}`;
  if (map && shapes.bias) words.push("bias");
  if (codes) words.push(codes);
  if (slices) words.push(Object.keys(slices).join("/"));
  if (tiedTo !== undefined) words.push(`tied to ${tiedTo}`);
  if (residuals > 0 && children.length > 0)
    words.push(residuals === 1 ? "residual" : `${residuals} residuals`);
  return words.filter((word) => word !== "").join(", ");
}

function sizes(
  { kind, inFeatures, outFeatures, orientation }: NonNullable<Module["map"]>,
  weight?: readonly number[],
) {
  if (kind === "conv") {
    const [out = 0, channels = 0, ...kernel] = weight ?? [];
    return `${channels} → ${out}${kernel.length > 0 ? `, ${kernel.join("×")}` : ""}`;
  }
  return `${formatCount(inFeatures)} → ${formatCount(outFeatures)}${kind === "linear" && orientation === "in-out" ? ", stored in-out" : ""}`;
}
