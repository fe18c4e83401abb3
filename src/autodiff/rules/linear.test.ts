import { describe, test } from "vitest";
import { type Attrs, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const of = (...shapes: number[][]): Operand[] => shapes.map((shape) => ({ shape }));

describe("MatMul", () => {
  test.each([
    [
      [2, 3],
      [3, 4],
    ],
    [
      [2, 2, 3],
      [3, 4],
    ],
    [
      [2, 1, 2, 3],
      [3, 2],
    ],
    [
      [2, 3],
      [2, 3, 4],
    ],
    [
      [2, 1, 2, 3],
      [3, 3, 2],
    ],
    [[3], [3, 4]],
    [[2, 3], [3]],
    [[3], [3]],
    [[3], [2, 3, 4]],
    [[2, 2, 3], [3]],
  ])("%j x %j", async (a, b) => {
    await check({ operands: of(a, b), build: (x, y) => ops.matmul(x as Value, y as Value) });
  });

  test("symbolic batch and length", async () => {
    const x: Operand = { shape: [2, 3, 4], symbolic: ["batch", "time", 4] };
    await check({ operands: [x, ...of([4, 5])], build: (a, b) => ops.matmul(a as Value, b as Value) });
    await check({ operands: [x, x], build: (a, b) => ops.matmul(a as Value, ops.transposeLast(b as Value)) });
  });
});

describe("Gemm", () => {
  const variants = [
    { transA: 0, transB: 0, c: [4] },
    { transA: 1, transB: 0, c: [2, 1] },
    { transA: 0, transB: 1, c: [] as number[] },
    { transA: 1, transB: 1, c: [2, 4] },
  ];
  test.each(variants)("%j", async ({ transA, transB, c }) => {
    const operands = of(transA ? [3, 2] : [2, 3], transB ? [4, 3] : [3, 4], c);
    const attrs: Attrs = {
      transA: { i: transA },
      transB: { i: transB },
      alpha: { f: 0.5 },
      beta: { f: 0.25 },
    };
    await check({ operands, build: (...values) => op("Gemm", values, attrs) });
    await check({ operands: operands.slice(0, 2), build: (...values) => op("Gemm", values, attrs) });
    await check({
      operands,
      build: (...values) => op("Gemm", values, { transA: attrs.transA, transB: attrs.transB } as Attrs),
    });
  });
});

describe("FusedMatMul", () => {
  const fused = (attrs: Record<string, number>) => (a: Value, b: Value) =>
    op(
      "FusedMatMul",
      [a, b],
      Object.fromEntries(Object.entries(attrs).map(([key, i]) => [key, key === "alpha" ? { f: i } : { i }])),
      {
        domain: "com.microsoft",
      },
    );
  test.each([
    [{}, [2, 2, 3], [2, 3, 4]],
    [{ transA: 1, alpha: 0.5 }, [2, 3, 2], [2, 3, 4]],
    [{ transB: 1 }, [2, 2, 3], [4, 3]],
    [{ transA: 1, transB: 1 }, [2, 3, 2], [2, 4, 3]],
    [{ transBatchA: 1 }, [2, 3, 4], [3, 4, 2]],
    [{ transBatchB: 1, transB: 1 }, [3, 2, 4], [5, 3, 4]],
  ] as [Record<string, number>, number[], number[]][])("%j %j x %j", async (attrs, a, b) => {
    await check({ operands: of(a, b), build: fused(attrs) as GradientCase["build"], precision: "exact32" });
  });
});

describe("Einsum", () => {
  test.each([
    ["ij,jk->ik", [2, 3], [3, 4]],
    ["bhid,bhjd->bhij", [2, 2, 3, 2], [2, 2, 2, 2]],
    ["bij,bjk->bik", [2, 2, 3], [2, 3, 2]],
    ["ij,kj->ik", [2, 3], [4, 3]],
    ["i,j->ij", [3], [2]],
    ["ij,ij->", [2, 3], [2, 3]],
    ["ij,jk->k", [2, 3], [3, 2]],
    ["ij->ji", [2, 3]],
    ["ij->", [2, 3]],
    ["ij->j", [2, 3]],
    ["ij,jk,kl->il", [2, 3], [3, 2], [2, 3]],
    ["...ij,...jk->...ik", [2, 2, 3], [2, 3, 2]],
    ["ik,kj", [2, 3], [3, 2]],
    ["ii->i", [3, 3]],
    ["ii,i->", [3, 3], [3]],
    ["b i, b i -> b", [2, 3], [2, 3]],
  ] as [string, ...number[][]][])("%s", async (equation, ...shapes) => {
    await check({ operands: of(...shapes), build: (...values) => ops.einsum(equation, ...values) });
  });
});
