import { expect, test } from "vitest";
import { configureRuntime, type RuntimeConfig } from "./index.js";
import { ortError } from "./ort/convert.js";

test("an unknown setting is refused by name", () => {
  const wrong = { wasmPath: "/ort/" } as RuntimeConfig;
  expect(() => configureRuntime(wrong)).toThrow(
    expect.objectContaining({ code: "config-invalid", message: expect.stringContaining("'wasmPath'") }),
  );
});

test.each([
  ["std::bad_alloc", "out-of-memory"],
  ["Failed to allocate memory for requested buffer of size 400", "out-of-memory"],
  ["safeint.h:17 SafeIntOnOverflow() Integer overflow", "out-of-memory"],
  ["Non-zero status code returned while running Foo node", "runtime-failed"],
])("'%s' becomes %s", (message, code) => {
  expect(ortError(new Error(message), "running the model")).toMatchObject({ code });
});
