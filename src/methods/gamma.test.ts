import { expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { tensor } from "../tensor/index.js";
import { digamma, logGamma } from "./gamma.js";

/** At 1/2 and 5/2 (√π and ¾·√π), 1, 4 (3!), 21 (20!) and 0.01 (PyTorch). */
const AT = [0.5, 2.5, 1, 4, 21, 0.01];
const EULER = 0.5772156649015329;
const LOG_GAMMA = [
  Math.log(Math.PI) / 2,
  Math.log(0.75) + Math.log(Math.PI) / 2,
  0,
  Math.log(6),
  42.335616460753485,
  4.599479878042022,
];
const DIGAMMA = [
  -EULER - 2 * Math.LN2,
  -EULER - 2 * Math.LN2 + 2 + 2 / 3,
  -EULER,
  -EULER + 1 + 1 / 2 + 1 / 3,
  -EULER + Array.from({ length: 20 }, (_, k) => 1 / (k + 1)).reduce((a, b) => a + b, 0),
  -100.560885457868,
];

test("ln Γ and ψ have their known values, and ψ is the derivative", async () => {
  const x = input("x", "float32", [AT.length]);
  const own = logGamma(x);
  const [slope] = gradients(ops.reduceSum(own, undefined, false), [x]) as [Value];
  const graph = makeGraph(
    "gamma",
    [x],
    [
      ["own", own],
      ["psi", digamma(x)],
      ["slope", slope],
    ],
  );
  const found = await evaluate(graph, { x: tensor("float32", [AT.length], AT) });
  for (const [at, wanted] of LOG_GAMMA.entries()) {
    expect(Math.abs(Number(found.own?.data[at]) - wanted)).toBeLessThan(4e-6 * Math.max(1, Math.abs(wanted)));
    for (const key of ["psi", "slope"]) {
      const psi = DIGAMMA[at] as number;
      expect(Math.abs(Number(found[key]?.data[at]) - psi), key).toBeLessThan(
        4e-6 * Math.max(1, Math.abs(psi)),
      );
    }
  }
});
