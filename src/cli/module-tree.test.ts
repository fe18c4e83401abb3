import { expect, test } from "vitest";
import type { Module } from "../models/index.js";
import { drawModules } from "./module-tree.js";

const linear = (path: string, out = 4): Module => ({
  path,
  kind: "linear",
  map: {
    kind: "linear",
    inFeatures: 4,
    outFeatures: out,
    orientation: "out-in",
    weightName: path,
    isHead: false,
  },
  parameters: 4 * out,
  shapes: { weight: [out, 4] },
  residuals: 0,
  children: [],
});
const group = (path: string, ...children: Module[]): Module => ({
  path,
  kind: "module",
  parameters: children.reduce((sum, child) => sum + child.parameters, 0),
  shapes: {},
  residuals: 0,
  children,
});

const layer = (at: number, out?: number) =>
  group(`m.layers.${at}`, linear(`m.layers.${at}.q`), linear(`m.layers.${at}.k`, out));

test("equal layers are one line, different ones apart, chains of containers one line", () => {
  const root = group("", group("m", group("m.layers", layer(0), layer(1), layer(2, 8))), linear("head"));
  expect(drawModules(root, new Set(["head"])).split("\n")).toEqual([
    "  ├─ m.layers     112",
    "  │  ├─ {0-1}  2 × 32",
    "  │  │  ├─ q       16  linear 4 → 4",
    "  │  │  └─ k       16  linear 4 → 4",
    "  │  └─ 2          48",
    "  │     ├─ q       16  linear 4 → 4",
    "  │     └─ k       32  linear 4 → 8",
    "  └─ head          16  ● linear 4 → 4",
  ]);
});

test("a marked layer is shown apart from unmarked ones", () => {
  const root = group("", group("m", group("m.layers", layer(0), layer(1))));
  expect(drawModules(root, new Set(["m.layers.1.q"]))).not.toContain("{0-1}");
});
