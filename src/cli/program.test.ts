import { expect, test } from "vitest";
import { z } from "zod";
import { command } from "./command.js";
import { type Call, createProgram } from "./program.js";

const plain = command({
  name: "one",
  summary: "a command",
  configFile: true,
  schema: z.strictObject({
    eos: z.boolean().default(true),
    place: z
      .union([z.string(), z.literal(false)])
      .meta({ off: "nowhere" })
      .optional(),
  }),
  example: "one",
  run: async () => {},
});
const grouped = command({
  name: "runs compare",
  summary: "a command of two words",
  schema: z.strictObject({ names: z.array(z.string()) }),
  positional: "names",
  example: "runs compare a b",
  run: async () => {},
});

async function parsed(...args: string[]): Promise<Call> {
  let call: Call | undefined;
  const program = createProgram([plain, grouped], { version: "0", method: "lora" }, async (got) => {
    call = got;
  });
  await program.parseAsync(args, { from: "user" });
  if (!call) throw new Error("no command was called");
  return call;
}

test("flags that were not given are not there, so that a file's values hold", async () => {
  expect((await parsed("one")).flags).toEqual({});
  expect((await parsed("one", "--no-eos")).flags).toEqual({ eos: false });
});

test("an option that can be off takes a value or --no-", async () => {
  expect((await parsed("one", "--place", "here")).flags).toEqual({ place: "here" });
  expect((await parsed("one", "--no-place")).flags).toEqual({ place: false });
});

test("--set may be repeated", async () => {
  expect((await parsed("one", "--set", "a=1", "--set", "b.c=2")).set).toEqual(["a=1", "b.c=2"]);
});

test("commands of two words, with several values in a row", async () => {
  const call = await parsed("runs", "compare", "a", "b,c");
  expect([call.command.name, call.flags]).toEqual(["runs compare", { names: ["a", "b,c"] }]);
  await expect(parsed("runs", "compair", "a")).rejects.toThrow(/unknown command 'compair'/);
});
