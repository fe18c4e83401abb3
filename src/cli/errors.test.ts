import { CommanderError } from "commander";
import { expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { describeError, errorObject, exitCodeOf } from "./errors.js";

const missing = new TunesmithError("target-not-found", "target 'q_prj' matches no module", {
  fix: "near names: q_proj",
});

test("an error is what happened and what to do, without a stack", () => {
  expect(describeError(missing, false)).toBe(
    "error[target-not-found]: target 'q_prj' matches no module\n  fix: near names: q_proj",
  );
  expect(describeError(missing, true)).toContain("errors.test.ts");
  expect(describeError(new TypeError("x is not a function"), false)).toMatch(
    /^error\[internal\]: x is not.*\n {2}fix: .*--debug/,
  );
  const unknown = new CommanderError(
    1,
    "commander.unknownOption",
    "error: unknown option '--rnk'\n(Did you mean --rank?)",
  );
  expect(describeError(unknown, false)).toBe(
    "error[config-invalid]: unknown option '--rnk'\n  fix: did you mean --rank?",
  );
});

test("advice about options of the library names flags", () => {
  const error = new TunesmithError("wrong-base", "x", {
    fix: "load the base, or pass { anyBase: true } to apply it",
  });
  expect(describeError(error, false)).toContain("or give --any-base to apply it");
  expect(errorObject(error)).toMatchObject({
    error: { fix: "load the base, or give --any-base to apply it" },
  });
});

test("exit codes: 1 what happened, 2 what was asked, 130 interrupted", () => {
  expect(exitCodeOf(missing)).toBe(2);
  expect(exitCodeOf(new TunesmithError("config-invalid", "x"))).toBe(2);
  expect(exitCodeOf(new TunesmithError("file-not-found", "x"))).toBe(1);
  expect(exitCodeOf(new TunesmithError("cancelled", "x"))).toBe(130);
  expect(exitCodeOf(new Error("x"))).toBe(1);
  expect(exitCodeOf(new CommanderError(0, "commander.helpDisplayed", "(outputHelp)"))).toBe(0);
});

test("programs get the same as JSON", () => {
  expect(errorObject(missing)).toEqual({
    error: {
      code: "target-not-found",
      message: "target 'q_prj' matches no module",
      fix: "near names: q_proj",
    },
  });
});
