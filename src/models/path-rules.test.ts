import { expect, test } from "vitest";
import { namesOf } from "./path-rules.js";

test("short names stand for chosen modules only", () => {
  const all = ["net.0.0", "net.1", "head.conv", "body.conv", "body.out", "out.last"];
  expect(namesOf(["head.conv", "body.conv"], all)).toEqual(["conv"]);
  // A number says nothing.
  expect(namesOf(["net.0.0", "net.1"], all)).toEqual(["net.0.0", "net.1"]);
  // Another module of that name, and a group of that name.
  expect(namesOf(["head.conv"], all)).toEqual(["head.conv"]);
  expect(namesOf(["body.out"], all)).toEqual(["body.out"]);
});
