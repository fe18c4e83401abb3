import { expect, test } from "vitest";
import { z } from "zod";
import { bytesIn, fieldOf, flagOf, nameList, parseFlag } from "./flags.js";

test("flags are written with dashes", () => {
  expect(flagOf("batchSize")).toBe("--batch-size");
  expect(flagOf("lr")).toBe("--lr");
});

test("a field knows its kinds, choices, default and description through wrappers", () => {
  const field = fieldOf("init", z.enum(["a", "b"]).default("b").describe("how it starts"));
  expect(field).toMatchObject({
    flag: "--init",
    description: "how it starts",
    choices: ["a", "b"],
    fallback: "b",
  });
  const union = fieldOf("targets", z.union([z.string(), z.array(z.string())]).optional());
  expect([...union.kinds]).toEqual(["string", "array of string"]);
  expect(union.optional).toBe(true);
});

test.each([
  ["q_proj,v_proj", ["q_proj", "v_proj"]],
  ["q_proj, v_proj", ["q_proj", "v_proj"]],
  ["q_proj", ["q_proj"]],
  ["model.layers.0.mlp.up_proj", ["model.layers.0.mlp.up_proj"]],
  ["all-linear", "all-linear"],
  [".*\\.(q|v)_proj", ".*\\.(q|v)_proj"],
  [".*\\.\\d{1,2}\\.mlp", ".*\\.\\d{1,2}\\.mlp"],
])("target text %s", (text, wanted) => {
  expect(nameList(text)).toEqual(wanted);
});

test("texts become what the field takes, or stay for the schema to refuse", () => {
  const of = (schema: z.ZodType) => fieldOf("x", schema);
  expect(parseFlag(of(z.number()), "1e-3")).toBe(1e-3);
  expect(parseFlag(of(z.number()), ".5")).toBe(0.5);
  expect(parseFlag(of(z.number()), "3x")).toBe("3x");
  expect(parseFlag(of(z.number()), "")).toBe("");
  expect(parseFlag(of(z.array(z.number())), "0,2,3")).toEqual([0, 2, 3]);
  expect(parseFlag(of(z.array(z.string())), "a,b")).toEqual(["a", "b"]);
  const textOrIds = of(z.union([z.string(), z.array(z.number())]));
  expect(parseFlag(textOrIds, "12,7")).toEqual([12, 7]);
  expect(parseFlag(textOrIds, "judge, please: 12")).toBe("judge, please: 12");
  expect(parseFlag(of(z.record(z.string(), z.number())), '{"q_proj":4}')).toEqual({ q_proj: 4 });
  expect(parseFlag(of(z.record(z.string(), z.number())), "q_proj=4")).toBe("q_proj=4");
  expect(parseFlag(of(z.union([z.number(), z.string()])), "512MB")).toBe("512MB");
  expect(parseFlag(of(z.string()), "12")).toBe("12");
});

test("a verbatim list takes each text as it is", () => {
  const stop = fieldOf("stop", z.array(z.string()).meta({ verbatim: true }).default([]).describe("ends"));
  expect(stop).toMatchObject({ verbatim: true, description: "ends" });
  for (const text of ["\n\n", "a, b", "[end]"]) expect(parseFlag(stop, text)).toEqual([text]);
  expect(fieldOf("names", z.array(z.string())).verbatim).toBe(false);
});

test("byte sizes", () => {
  expect(bytesIn("512MB")).toBe(512 * 2 ** 20);
  expect(bytesIn("1.5 GiB")).toBe(1.5 * 2 ** 30);
  expect(bytesIn("100")).toBe(100);
  expect(bytesIn(7)).toBe(7);
});

test("a mapping with known keys is given as JSON", () => {
  const field = fieldOf("phase", z.strictObject({ interval: z.number().optional() }).optional());
  expect(parseFlag(field, '{"interval": 3}')).toEqual({ interval: 3 });
  expect(parseFlag(field, "interval")).toBe("interval");
});
