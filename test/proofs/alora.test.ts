import { expect, test } from "vitest";
import { aloraProof } from "../../proofs/alora.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type AloraConfig, aloraMethod, type Method, type PassText } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(aloraProof())).toEqual([]);
}, 60_000);

const { forward } = aloraMethod;
const constant = (x: PassText["segments"], value: number) =>
  ops.add(ops.mul(x, ops.scalar(0, x.dtype)), ops.scalar(value, x.dtype));

/** The method over other texts. */
const reading = (change: (text: PassText) => PassText): Method<AloraConfig> => ({
  ...aloraMethod,
  forward(call, config) {
    const text = call.text();
    return forward({ ...call, text: () => text && change(text) }, config);
  },
});

const mutants: Readonly<Record<string, [Method<AloraConfig>, RegExp]>> = {
  "an adapter that is always on": [
    reading((text) => ({ ...text, columns: ops.add(text.columns, 1000) })),
    /logits before[\s\S]*keys and values before it[\s\S]*base's cache[\s\S]*plain arithmetic/,
  ],
  "one that waits for the invocation's end": [
    reading((text) => ({ ...text, columns: ops.sub(text.columns, 1) })),
    /invocation on[\s\S]*plain arithmetic/,
  ],
  "one that takes the first token for all of it": [
    {
      ...aloraMethod,
      forward: (call, config) => forward(call, { ...config, invocation: config.invocation.slice(0, 1) }),
    },
    /parts of the invocation/,
  ],
  "texts that are not told apart": [
    reading((text) => ({
      ...text,
      segments: constant(text.segments, 1),
      promptSegments: constant(text.promptSegments, 1),
    })),
    /packed into a row/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(aloraProof({ method, learning: false }))).join("\n")).toMatch(expected);
  },
  60_000,
);
