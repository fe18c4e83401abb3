import { describe, expect, test } from "vitest";
import { type Attrs, makeNode, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const compile = (graph: Parameters<typeof createSession>[0]) =>
  createSession(graph, { threads: 1, optimization: "basic" });
const lower = ["RNN", "GRU", "LSTM"];
const [TIME, BATCH, IN, HIDDEN] = [3, 2, 2, 2];

interface Kind {
  readonly op: string;
  readonly gates: number;
  readonly states: number;
}
interface Options {
  readonly direction?: string;
  readonly attrs?: Attrs;
  readonly without?: readonly string[];
  readonly lengths?: readonly number[];
  readonly symbolicBatch?: boolean;
}
const kinds: Kind[] = [
  { op: "RNN", gates: 1, states: 1 },
  { op: "GRU", gates: 3, states: 1 },
  { op: "LSTM", gates: 4, states: 2 },
];

/** The node over x, w, r, b, lengths, initial states and peepholes, with those named in `without` left out. */
function caseOf(
  kind: Kind,
  { direction = "forward", attrs = {}, without = [], lengths, symbolicBatch }: Options,
): GradientCase {
  const directions = direction === "bidirectional" ? 2 : 1;
  const state: Operand = {
    shape: [directions, BATCH, HIDDEN],
    ...(symbolicBatch ? { symbolic: [directions, "batch", HIDDEN] } : {}),
  };
  const all: [string, Operand | undefined][] = [
    ["x", { shape: [TIME, BATCH, IN], ...(symbolicBatch ? { symbolic: [TIME, "batch", IN] } : {}) }],
    ["w", { shape: [directions, kind.gates * HIDDEN, IN] }],
    ["r", { shape: [directions, kind.gates * HIDDEN, HIDDEN] }],
    ["b", { shape: [directions, 2 * kind.gates * HIDDEN] }],
    ["lengths", lengths && { shape: [BATCH], values: lengths, dtype: "int32" }],
    ["h", state],
    ["c", kind.states === 2 ? state : undefined],
    ["p", kind.states === 2 ? { shape: [directions, 3 * HIDDEN] } : undefined],
  ];
  const present = all.filter(([name, operand]) => operand && !without.includes(name));
  const build = (...values: Value[]) => {
    const inputs = all.map(([name]) => {
      const at = present.findIndex(([other]) => other === name);
      return at < 0 ? undefined : values[at];
    });
    const node = makeNode(
      kind.op,
      inputs.slice(0, 2 + inputs.slice(2).findLastIndex((value) => value) + 1),
      {
        hidden_size: { i: HIDDEN },
        direction: { s: direction },
        ...attrs,
      },
      { outputs: 1 + kind.states },
    );
    return node.outputs;
  };
  return { operands: present.map(([, operand]) => operand as Operand), build, lower };
}

async function verify(kind: Kind, options: Options): Promise<void> {
  const item = caseOf(kind, options);
  expect(await compareDecomposition(compile, item)).toBeLessThan(1e-5);
  await checkGradients(compile, item);
}

describe.each(kinds)("$op", (kind) => {
  const peepless = ["p"];
  test.each(["forward", "reverse", "bidirectional"])("%s", async (direction) => {
    await verify(kind, { direction, without: peepless });
  });
  test("without bias and initial states", async () => {
    await verify(kind, { without: ["b", "h", "c", "p"] });
  });
  test.each(["forward", "reverse"])("with lengths, %s", async (direction) => {
    await verify(kind, { direction, lengths: [3, 1], without: peepless });
  });
  test("with clipping of the gates", async () => {
    await verify(kind, { attrs: { clip: { f: 0.7 } }, without: peepless });
  });
  test("symbolic batch", async () => {
    await verify(kind, { symbolicBatch: true, without: ["h", "c", "p"] });
  });
});

test("LSTM with peepholes, and with coupled gates", async () => {
  const lstm = kinds[2] as Kind;
  await verify(lstm, {});
  await verify(lstm, { attrs: { input_forget: { i: 1 } }, without: ["p"] });
});

test("GRU with linear_before_reset", async () => {
  const gru = kinds[1] as Kind;
  await verify(gru, { attrs: { linear_before_reset: { i: 1 } } });
  await verify(gru, { attrs: { linear_before_reset: { i: 1 } }, without: ["b"] });
});

test("other activations, with their parameters", async () => {
  const [rnn, gru] = kinds as [Kind, Kind];
  const attrs: Attrs = {
    activations: { strings: ["HardSigmoid", "ScaledTanh"] },
    activation_alpha: { floats: [0.25, 0.75] },
    activation_beta: { floats: [0.5, 0.5] },
  };
  await verify(gru, { attrs });
  for (const name of [
    "Relu",
    "Sigmoid",
    "Softsign",
    "Softplus",
    "Affine",
    "LeakyRelu",
    "Elu",
    "ThresholdedRelu",
  ]) {
    const takes = ["Affine", "LeakyRelu", "Elu", "ThresholdedRelu"].includes(name);
    await verify(rnn, {
      attrs: {
        activations: { strings: [name] },
        ...(takes ? { activation_alpha: { floats: [0.5] } } : {}),
        ...(name === "Affine" ? { activation_beta: { floats: [0.25] } } : {}),
      },
    });
  }
});
