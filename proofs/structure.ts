import type { Adaptation, Method, SiteConfig } from "../src/methods/index.js";
import type { Optimizer } from "../src/training/index.js";
import { rankOfChange, squareOf, tailOf, trainedCount, vanishes } from "./matrices.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  learn,
  norm,
  normals,
  type PlantedMap,
  type PlantedSites,
  plus,
  start,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

/** A method's tensors at one map by name, those of all maps included. */
export type Numbers = Readonly<Record<string, ArrayLike<number>>>;

/**
 * An update of the shape that a method is made for. The method must compute what plain arithmetic says, hold as many numbers
 * as its paper says, find a planted update of its shape, and do there what LoRA cannot do with as many numbers.
 */
export interface Structure<C extends SiteConfig> {
  readonly label: string;
  readonly config: C;
  readonly size: readonly [out: number, inn: number];
  /** Default `map`. */
  readonly path?: string;
  readonly bias?: boolean;
  /** W' `[out, in]`, in plain arithmetic; where it changes biases, b' `[out]` too. */
  formula(
    map: PlantedMap,
    numbers: Numbers,
  ): { readonly weight: Float32Array; readonly bias?: Float32Array | undefined };
  /** Numbers of a trained tensor in the planted update. Default: half of standard normal ones. */
  planted?(key: string, length: number): Float32Array;
  /** Trained numbers by the paper's formula. */
  readonly count: number;
  /** Rank of an update of this shape, or its range. */
  readonly rank: number | readonly [number, number];
  /** Default: it is not trained, only computed. */
  readonly learning?: {
    /** Default 800. */
    readonly steps?: number;
    /** Of Adam, falling linearly to zero. Default 0.02. */
    readonly lr?: number;
    readonly optimizer?: Optimizer;
    /** It starts at the planted numbers and noise of so large a standard deviation. Default: where the method starts. */
    readonly near?: number;
    /** Relative error that may be left. Default 0.01. */
    readonly error?: number;
    /** Share of the update that the best one of LoRA with at least as many numbers misses at least. Default 0.3. */
    readonly loraMisses?: number;
  };
}

export interface StructureOptions<C extends SiteConfig> {
  /** The implementation under test. */
  readonly method?: Method<C>;
  /** Whether to train; the rest is computed anyway. Default true. */
  readonly learns?: boolean;
}

interface Family<C extends SiteConfig> {
  readonly name: string;
  readonly title: string;
  readonly papers: readonly string[];
  readonly structures: readonly Structure<C>[];
  /** What else the paper promises. */
  extra?(method: Method<C>, learns: boolean): Promise<Check[]>;
}

/**
 * The proof of a method over its structures. Bounds were set before anything was measured: an error of a hundredth at most, of
 * which LoRA's best misses three tenths at least.
 */
export const structured =
  <C extends SiteConfig>(standard: Method<C>, { name, title, papers, structures, extra }: Family<C>) =>
  ({ method = standard, learns = true }: StructureOptions<C> = {}): Proof => ({
    name,
    title,
    papers,
    async run() {
      const checks: Check[] = [];
      for (const structure of structures) checks.push(...(await checked(name, method, structure, learns)));
      return [...checks, ...((await extra?.(method, learns)) ?? [])];
    },
  });

/** The live tensors of one map. */
export const numbersAt = ({ sites, shared }: PlantedSites, index = 0): Record<string, Float32Array> =>
  Object.fromEntries(
    Object.entries({ ...shared, ...sites[index]?.tensors }).map(([key, { tensor }]) => [
      key,
      tensor.data as Float32Array,
    ]),
  );

/** `[out, in]` from a function of row and column. */
export const matrix = (out: number, inn: number, entry: (i: number, j: number) => number): Float32Array =>
  Float32Array.from({ length: out * inn }, (_, at) => entry(Math.floor(at / inn), at % inn));

/** What is left, relative to its size, of an update after its best approximation of a rank. */
export const missedByRank = (out: number, inn: number, delta: Float32Array, rank: number): number =>
  Math.sqrt(tailOf(out, inn, delta, rank) / squareOf(delta));

/** Rank at which LoRA has at least so many numbers. */
export const loraRank = (count: number, out: number, inn: number): number => Math.ceil(count / (out + inn));

const blank = ({ size: [out, inn], path = "map", bias }: Structure<SiteConfig>, name: string): PlantedMap => {
  const weight = normals(out * inn, "w0", name, path).map((value) => value / Math.sqrt(inn));
  return { path, out, in: inn, weight, target: weight, ...(bias && { bias: normals(out, "b0", name) }) };
};

/** The map with an update of its structure in its target, and that update. */
export async function planted<C extends SiteConfig>(
  name: string,
  { method, config }: Adaptation<C>,
  structure: Structure<C>,
): Promise<{ readonly map: PlantedMap; readonly delta: Float32Array; readonly live: PlantedSites }> {
  const map = blank(structure as unknown as Structure<SiteConfig>, name);
  const draw = structure.planted ?? ((key, length) => normals(length, name, key).map((value) => value / 2));
  const live = await start({ method, config }, [map]);
  for (const [key, { trainable, tensor }] of Object.entries({ ...live.shared, ...live.sites[0]?.tensors }))
    if (trainable) (tensor.data as Float32Array).set(draw(key, tensor.data.length));
  const { weight: target, bias } = structure.formula(map, numbersAt(live));
  return {
    map: { ...map, target, ...(bias && { targetBias: bias }) },
    delta: plus(target, map.weight, -1),
    live,
  };
}

async function checked<C extends SiteConfig>(
  name: string,
  method: Method<C>,
  structure: Structure<C>,
  learns: boolean,
): Promise<Check[]> {
  const { label, config, size, formula, count, rank, learning } = structure;
  const [out, inn] = size;
  const adaptation = { method, config };
  const { map, delta, live: known } = await planted(name, adaptation, structure);
  const live = await start(adaptation, [map]);
  const { weight: before } = await compute(adaptation, map, live, new Float32Array(inn));
  const trained = trainedCount(live);
  disturb(live, 0.3);
  const found = await compute(adaptation, map, live, new Float32Array(inn));
  const [least, most] = typeof rank === "number" ? [rank, rank] : rank;
  const checks = [
    vanishes(`${label}: change at the start`, gap(before, map.weight), 1e-6),
    ...(await agreement(label, adaptation, map, live, formula(map, numbersAt(live)))),
    { what: `${label}: trained numbers`, measured: trained, expected: count, tolerance: 0 },
    between(`${label}: rank of the update`, rankOfChange(out, inn, map.weight, found.weight), least, most),
  ];
  if (!learning) return checks;
  const { error = 0.01, loraMisses = 0.3, near } = learning;
  const same = loraRank(count, out, inn);
  if (loraMisses > 0)
    checks.push(
      between(
        `${label}: what the best update of LoRA misses, rank ${same}, ${same * (out + inn)} numbers`,
        missedByRank(out, inn, delta, same),
        loraMisses,
        1,
      ),
    );
  if (!learns) return checks;
  if (near !== undefined) disturb(known, near);
  const options = { ...learning, error, count, ...(near !== undefined && { live: known }) };
  return [...checks, ...(await learned(label, adaptation, map, options))];
}

async function learned<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  map: PlantedMap,
  options: NonNullable<Structure<C>["learning"]> & {
    readonly error: number;
    readonly count: number;
    readonly live?: PlantedSites;
  },
): Promise<Check[]> {
  const { steps = 800, lr = 0.02, error, count, optimizer, live: from } = options;
  const { live, errors } = await learn(adaptation, [map], {
    ...{ steps, lr, decay: true },
    ...(optimizer && { optimizer }),
    ...(from && { live: from }),
  });
  const checks = [
    between(`${label}: what ${steps} steps miss, ${count} numbers`, Number(errors[0]), 0, error),
  ];
  if (!map.bias || !map.targetBias) return checks;
  const { bias } = await compute(adaptation, map, live, new Float32Array(map.in));
  const missed = norm(plus(bias as Float32Array, map.targetBias, -1));
  const moved = norm(plus(map.targetBias, map.bias, -1));
  // Where the method leaves biases alone there is nothing to find.
  return [
    ...checks,
    between(`${label}: the same of the bias`, moved > 0 ? missed / moved : missed, 0, error),
  ];
}

/**
 * What is left of a generic update, relative to its size, when it is trained by a method whose updates form a linear space: the share
 * that lies outside of it, which `inside` gives the square of the rest of.
 */
export async function projection<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  [out, inn]: readonly [number, number],
  inside: (delta: Float32Array) => number,
  options: { readonly steps?: number; readonly lr?: number } = {},
): Promise<Check> {
  const delta = normals(out * inn, "generic", label).map((value) => value / Math.sqrt(inn));
  const weight = normals(out * inn, "w0", label).map((value) => value / Math.sqrt(inn));
  const map: PlantedMap = { path: "map", out, in: inn, weight, target: plus(weight, delta) };
  const { errors } = await learn(adaptation, [map], { steps: 800, lr: 0.02, decay: true, ...options });
  return {
    what: `${label}: what it misses of a generic update, against its projection`,
    measured: Number(errors[0]),
    expected: Math.sqrt(1 - inside(delta) / squareOf(delta)),
    tolerance: 0.001,
    relative: true,
  };
}
