import {
  gemm,
  type Matrix,
  type Matrix64,
  nearestOrthogonal,
  pseudoInverse,
} from "../../runtime/linalg/index.js";
import {
  centreOf,
  contractRun,
  coreShape,
  interleave,
  type MpoOptions,
  mpoDecompose,
  splitSide,
} from "./chain.js";

/** Chains of several matrices that have their central tensor in common. */
export interface SharedFit {
  readonly central: Float64Array;
  readonly layers: readonly {
    /** Tensors before and after the middle. */
    readonly left: readonly Float64Array[];
    readonly right: readonly Float64Array[];
    /** Size of what the chain misses of its matrix. */
    readonly missed: number;
  }[];
}

/** One matrix as the tensor `[l, m, r]` of length 1, and the sides that go with it: `[l, d]` and `[d', r]`. */
interface Part {
  readonly unit: Float64Array;
  left: Matrix64;
  right: Matrix64;
}

const folded = (data: Float64Array, rows: number): Matrix64 => ({ rows, cols: data.length / rows, data });
const dot = (a: Float64Array, b: Float64Array): number =>
  a.reduce((sum, value, at) => sum + value * (b[at] as number), 0);

/** Matrices that differ by less than this, relative to their size and squared, are multiples of each other. */
const SAME = 1e-9;

/**
 * The chains L·C·R with one C that come near several matrices of one shape, their lengths apart: sides with orthonormal
 * columns and rows and the mean of LᵀWRᵀ in turn (orthogonal Procrustes problems, so that the error never rises), then
 * sides by least squares. Exact for multiples of one matrix; for others it is a compromise, whose error is returned.
 */
export function fitShared(weights: readonly Matrix[], options: MpoOptions, rounds: number): SharedFit {
  const first = weights.find(({ data }) => data.some((value) => value !== 0)) ?? weights[0];
  const start = mpoDecompose(first as Matrix, options);
  const { shape, cores } = start;
  const given = weights.map((weight) => interleave(weight, shape));
  const lengths = given.map((tensor) => Math.sqrt(dot(tensor, tensor)));
  const [count, centre] = [cores.length, centreOf(shape)];
  const [before, , , after] = coreShape(shape, centre) as [number, number, number, number];
  const sides = () => {
    const left = contractRun(start, 0, centre);
    return {
      left: folded(left, left.length / before),
      right: folded(contractRun(start, centre + 1, count), after),
    };
  };
  const unitOf = lengths.find((length) => length > 0) ?? 1;
  const parts: Part[] = [];
  const own = given.map((tensor, at) => {
    // A weight of zeros suits any chain.
    if (lengths[at] === 0) return undefined;
    const unit = tensor.map((value) => value / (lengths[at] as number));
    const known = parts.findIndex((part) => 1 - dot(part.unit, unit) < SAME / 2);
    return known >= 0 ? known : parts.push({ unit, ...sides() }) - 1;
  });
  let central: Float64Array = (cores[centre] as Float64Array).map((value) => value / unitOf);
  if (parts.length > 1) {
    for (let round = 0; round < rounds; round++) central = improve(parts, central, before, after);
    for (const part of parts) settle(part, central, before, after);
  }
  const layers = given.map((tensor, at) => {
    const { left, right } = parts[own[at] ?? 0] ?? sides();
    const length = lengths[at] as number;
    const chain = {
      left: splitSide(
        left.data.map((value) => value * length),
        shape,
        "left",
      ),
      right: splitSide(right.data, shape, "right"),
    };
    const whole = contractRun({ shape, cores: [...chain.left, central, ...chain.right] }, 0, count);
    const gap = whole.map((value, place) => value - (tensor[place] as number));
    return { ...chain, missed: Math.sqrt(dot(gap, gap)) };
  });
  return { central, layers };
}

/** One round of sides and centre. */
function improve(parts: readonly Part[], given: Float64Array, before: number, after: number): Float64Array {
  const mean = new Float64Array(given.length);
  for (const part of parts) {
    const { unit, right } = part;
    const spread = gemm(folded(given, given.length / after), right).data;
    part.left = nearestOrthogonal(
      gemm(folded(unit, part.left.rows), folded(spread, before), { transposeB: true }),
    );
    const inner = gemm(part.left, folded(unit, part.left.rows), { transposeA: true }).data;
    const [target, basis] = [folded(inner, inner.length / right.cols), folded(given, given.length / after)];
    part.right = nearestOrthogonal(gemm(basis, target, { transposeA: true }));
    const central = gemm(target, part.right, { transposeB: true }).data;
    central.forEach((value, at) => {
      mean[at] = (mean[at] as number) + value / parts.length;
    });
  }
  return mean;
}

/** The best sides around a centre, one after the other, orthonormal or not. */
function settle(part: Part, central: Float64Array, before: number, after: number): void {
  const { unit, left, right } = part;
  const spread = folded(gemm(folded(central, central.length / after), right).data, before);
  const squares = pseudoInverse(gemm(spread, spread, { transposeB: true }));
  part.left = gemm(gemm(folded(unit, left.rows), spread, { transposeB: true }), squares);
  const inner = gemm(part.left, folded(central, before)).data;
  const basis = folded(inner, inner.length / after);
  const target = folded(unit, unit.length / right.cols);
  const gram = pseudoInverse(gemm(basis, basis, { transposeA: true }));
  part.right = gemm(gram, gemm(basis, target, { transposeA: true }));
}
