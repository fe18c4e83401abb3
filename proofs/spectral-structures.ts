import {
  c3a,
  c3aMethod,
  fourierft,
  fourierftMethod,
  type Method,
  type ShiraConfig,
  shira,
  shiraMethod,
  supertuning,
  supertuningMethod,
  waveft,
  waveftMethod,
} from "../src/methods/index.js";
import { fft2, haar2d, ifft2, inverseHaar2d, mt19937, numericalRank } from "../src/runtime/index.js";
import { isTrue, matrixOf, vanishes } from "./matrices.js";
import { compute, disturb, normals, type PlantedMap, plant, plus, start, times } from "./planted.js";
import type { Check } from "./proof.js";
import { matrix, type Numbers, numbersAt, projection, structured } from "./structure.js";

const [OUT, IN] = [24, 32];
const SIZE = [OUT, IN] as const;
const AREA = OUT * IN;

/** Places of the trained entries: the first of a permutation by PyTorch's generator. */
const placesOf = (count: number, seed: number): Int32Array => mt19937(seed).randperm(AREA).subarray(0, count);

/** A matrix that is zero but for some entries. */
function sparse(places: ArrayLike<number>, entries: ArrayLike<number>): Float64Array {
  const all = new Float64Array(AREA);
  for (let at = 0; at < places.length; at++) all[Number(places[at])] = Number(entries[at]);
  return all;
}

/** Rank that a matrix of these places has unless its entries are chosen for it. */
const genericRank = (all: Float64Array): number => numericalRank(matrixOf(OUT, IN, all), 1e-6);

const changed = ({ weight }: PlantedMap, delta: ArrayLike<number>) => ({
  weight: plus(weight, Float32Array.from(delta)),
});

const COUNT = 50;

/** The frequency that gives the same wave: −k. */
const mirror = (place: number): number =>
  ((OUT - Math.floor(place / IN)) % OUT) * IN + ((IN - (place % IN)) % IN);

/** Squares of the part of an update that real entries of the spectrum at the places reach: the cosines there. */
function cosines(delta: Float32Array, places: Int32Array): number {
  const { re } = fft2(OUT, IN, delta);
  const waves = new Set(Array.from(places, (place) => Math.min(place, mirror(place))));
  let square = 0;
  for (const wave of waves) square += (Number(re[wave]) ** 2 * (mirror(wave) === wave ? 1 : 2)) / AREA;
  return square;
}

async function fourierExtra(method: typeof fourierftMethod): Promise<Check[]> {
  const adaptation = { method, config: fourierft({ frequencies: COUNT }).config };
  const map = plant("map", SIZE, new Float32Array(AREA), "fourier");
  const live = await start(adaptation, [map]);
  disturb(live, 1);
  const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
  const { re, im } = fft2(OUT, IN, plus(weight, map.weight, -1));
  const own = new Set(Array.from(placesOf(COUNT, 777)).flatMap((place) => [place, mirror(place)]));
  let [inside, outside] = [0, 0];
  re.forEach((value, place) => {
    const square = value ** 2 + Number(im[place]) ** 2;
    if (own.has(place)) inside += square;
    else outside += square;
  });
  return [
    vanishes(
      "share of the update's spectrum outside of the chosen places",
      outside / (inside + outside),
      1e-9,
    ),
  ];
}

/** FourierFT: fewer numbers than LoRA of rank 1, and full rank. */
export const fourierftProof = structured(fourierftMethod, {
  name: "fourierft",
  title: "FourierFT finds an update of sparse spectrum with fewer numbers than LoRA of rank 1",
  papers: ["2405.03003"],
  structures: [
    {
      label: `${COUNT} frequencies`,
      config: fourierft({ frequencies: COUNT, scaling: 100 }).config,
      size: SIZE,
      formula: (map, { fourierft_spectrum: entries = [] }) =>
        changed(
          map,
          ifft2(OUT, IN, sparse(placesOf(COUNT, 777), entries)).re.map((value) => 100 * value),
        ),
      count: COUNT,
      // The transform keeps ranks; of real entries only what k and −k share is left.
      rank: genericRank(
        sparse(
          Array.from(placesOf(COUNT, 777)).flatMap((place) => [place, mirror(place)]),
          Array.from(normals(COUNT, "rank")).flatMap((value) => [value, value]),
        ),
      ),
      // Entries of a spectrum are large numbers where those of a weight are small.
      learning: { lr: 0.1 },
    },
  ],
  async extra(method, learns) {
    const checks = await fourierExtra(method as typeof fourierftMethod);
    if (!learns) return checks;
    const adaptation = { method, config: fourierft({ frequencies: COUNT, scaling: 100 }).config };
    const inside = (delta: Float32Array) => cosines(delta, placesOf(COUNT, 777));
    return [...checks, await projection(`${COUNT} frequencies`, adaptation, SIZE, inside, { lr: 0.1 })];
  },
});

/** PEFT has the two quadrants of differences the other way round. */
function exchanged(spectrum: Float64Array, isTransformed = true): Float64Array {
  if (!isTransformed) return spectrum;
  return spectrum.map((_, at) => {
    const [i, j] = [Math.floor(at / IN), at % IN];
    const [down, right] = [i >= OUT / 2, j >= IN / 2];
    if (down === right) return Number(spectrum[at]);
    const [row, column] = [i % (OUT / 2), j % (IN / 2)];
    return Number(spectrum[(down ? row : row + OUT / 2) * IN + (down ? column + IN / 2 : column)]);
  });
}

/** WaveFT: the same with wavelets, whose entries each move four numbers. */
export const waveftProof = structured(waveftMethod, {
  name: "waveft",
  title: "WaveFT finds an update of few wavelets with fewer numbers than LoRA of rank 1",
  papers: ["2505.12532"],
  structures: [true, false].map((transform) => ({
    label: transform ? `${COUNT} wavelets` : `${COUNT} entries themselves`,
    config: waveft({ frequencies: COUNT, transform, scaling: 2 }).config,
    size: SIZE,
    formula(map: PlantedMap, { waveft_spectrum: entries = [] }: Numbers) {
      const spectrum = sparse(placesOf(COUNT, 777), entries).map((value) => 2 * value);
      if (!transform) return changed(map, spectrum);
      return changed(map, inverseHaar2d(matrixOf(OUT, IN, exchanged(spectrum))).data);
    },
    count: COUNT,
    // The transform keeps ranks.
    rank: genericRank(exchanged(sparse(placesOf(COUNT, 777), normals(COUNT, "rank")), transform)),
    learning: {},
  })),
  async extra(method, learns) {
    if (!learns) return [];
    const adaptation = { method, config: waveft({ frequencies: COUNT, scaling: 2 }).config };
    const inside = (delta: Float32Array) => {
      const spectrum = exchanged(haar2d(matrixOf(OUT, IN, delta)).data as Float64Array);
      return placesOf(COUNT, 777).reduce((sum, place) => sum + Number(spectrum[place]) ** 2, 0);
    };
    return [await projection(`${COUNT} wavelets`, adaptation, SIZE, inside)];
  },
});

/** Squares of the means along the diagonals that a circulant block shares. */
function diagonals(delta: Float32Array, b: number): number {
  let square = 0;
  for (let top = 0; top < OUT; top += b)
    for (let left = 0; left < IN; left += b)
      for (let turn = 0; turn < b; turn++) {
        let sum = 0;
        for (let i = 0; i < b; i++) sum += Number(delta[(top + i) * IN + left + ((i + turn) % b)]);
        square += sum ** 2 / b;
      }
  return square;
}

/** C3A: an eighth of the numbers of the weight, and full rank. */
export const c3aProof = structured(c3aMethod, {
  name: "c3a",
  title: "C3A's circulant blocks have full rank, and it finds planted ones",
  papers: ["2407.19342"],
  structures: [4, 8].map((blockSize) => ({
    label: `blocks of ${blockSize}`,
    config: c3a({ blockSize }).config,
    size: SIZE,
    formula: (map: PlantedMap, { c3a_kernel: kernel = [] }: Numbers) =>
      changed(
        map,
        matrix(OUT, IN, (i, j) => {
          const block = Math.floor(i / blockSize) * (IN / blockSize) + Math.floor(j / blockSize);
          const turn = ((j % blockSize) - (i % blockSize) + blockSize) % blockSize;
          return Number(kernel[block * blockSize + turn]) / IN;
        }),
      ),
    count: AREA / blockSize,
    rank: OUT,
    learning: { lr: 0.05 },
  })),
  async extra(method, learns) {
    if (!learns) return [];
    const adaptation = { method, config: c3a({ blockSize: 8 }).config };
    const inside = (delta: Float32Array) => diagonals(delta, 8);
    return [await projection("blocks of 8", adaptation, SIZE, inside, { lr: 0.1 })];
  },
});

const shiraConfig = (options: Parameters<typeof shira>[0] = {}) => shira({ rank: 2, ...options }).config;
const SHIRA_COUNT = 2 * (OUT + IN);

/** Flat places of rows, then columns. */
const shiraPlaces = ({ shira_indices: indices = [] }: Numbers): number[] =>
  Array.from(
    { length: indices.length / 2 },
    (_, at) => Number(indices[at]) * IN + Number(indices[indices.length / 2 + at]),
  );

async function shiraExtra(method: Method<ShiraConfig>): Promise<Check[]> {
  const config = shiraConfig();
  const map = plant("map", SIZE, new Float32Array(AREA), "shira");
  const at = async (seed: number, path = "map") => {
    const live = await start({ method, config }, [{ ...map, path }], seed);
    disturb(live, 0.3);
    const { weight } = await compute({ method, config }, map, live, new Float32Array(IN));
    return { places: new Set(shiraPlaces(numbersAt(live))), weight };
  };
  const [one, two, other] = [await at(1), await at(2), await at(1, "other")];
  const moved = one.weight.filter((value, place) => value !== map.weight[place]).length;
  const common = [...one.places].filter((place) => two.places.has(place)).length;
  // Hypergeometric.
  const mean = SHIRA_COUNT ** 2 / AREA;
  const deviation = Math.sqrt((mean * (1 - SHIRA_COUNT / AREA) * (AREA - SHIRA_COUNT)) / (AREA - 1));
  return [
    { what: "numbers of the weight that move", measured: moved, expected: SHIRA_COUNT, tolerance: 0 },
    {
      what: "places that two adapters share, within three standard deviations of chance",
      measured: common,
      expected: mean,
      tolerance: 3 * deviation,
    },
    isTrue(
      "two modules have places of their own",
      [...one.places].some((place) => !other.places.has(place)),
    ),
  ];
}

/** SHiRA: as many numbers as LoRA, scattered over the weight. */
export const shiraProof = structured(shiraMethod, {
  name: "shira",
  title: "SHiRA moves a few scattered numbers, which gives a high rank, and leaves the others as they are",
  papers: ["2406.13175"],
  structures: [
    {
      label: "the places of rank 2",
      config: shiraConfig({ maskSeed: 7 }),
      size: SIZE,
      formula: (map, { shira_weight: entries = [] }) =>
        changed(map, sparse(placesOf(SHIRA_COUNT, 7).slice().sort(), entries)),
      count: SHIRA_COUNT,
      rank: genericRank(sparse(placesOf(SHIRA_COUNT, 7), normals(SHIRA_COUNT, "rank"))),
      learning: {},
    },
  ],
  async extra(method, learns) {
    const checks = await shiraExtra(method);
    if (!learns) return checks;
    const adaptation = { method, config: shiraConfig({ maskSeed: 7 }) };
    const inside = (delta: Float32Array) =>
      placesOf(SHIRA_COUNT, 7).reduce((sum, place) => sum + Number(delta[place]) ** 2, 0);
    return [...checks, await projection("the places of rank 2", adaptation, SIZE, inside)];
  },
});

const SUPER_COUNT = 76;

/** The largest entries of W, or the smallest, in their order. */
const bySize = ({ weight }: PlantedMap, sign: 1 | -1): number[] =>
  Array.from(weight.keys())
    .sort((a, b) => sign * (Math.abs(Number(weight[b])) - Math.abs(Number(weight[a]))))
    .slice(0, SUPER_COUNT);

/** Super-Tuning: a tenth of the weight, chosen by size. */
export const supertuningProof = structured(supertuningMethod, {
  name: "supertuning",
  title:
    "Super-Tuning moves the largest weights alone, which gives a high rank, with LoRA beside them if wanted",
  papers: ["2607.09287"],
  structures: (["largest", "smallest", "supra"] as const).map((variant) => {
    const rank = 2;
    const options = variant === "supra" ? { rank, alpha: 3 } : { select: variant };
    return {
      label: variant,
      config: supertuning({ sparsity: 0.9, ...options }).config,
      size: SIZE,
      formula(map: PlantedMap, { supertuning_values: entries = [], ...all }: Numbers) {
        const own = changed(map, sparse(bySize(map, variant === "smallest" ? -1 : 1), entries)).weight;
        const { supertuning_lora_A: a, supertuning_lora_B: b } = all;
        return { weight: a && b ? plus(own, times(b, a, [OUT, rank, IN]), 3 / rank) : own };
      },
      count: SUPER_COUNT + (variant === "supra" ? rank * (OUT + IN) : 0),
      // Random places of a tenth of the entries leave few rows, if any, to the others.
      rank: [OUT - 3, OUT] as const,
      // Half of such an update is LoRA's own: the best one of rank 4 missed 0.18 of it, less than of the others.
      learning: variant === "supra" ? { loraMisses: 0 } : {},
    };
  }),
});
