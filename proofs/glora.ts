import {
  formsAt,
  type GloraConfig,
  type GloraForms,
  glora,
  gloraChoices,
  gloraMethod,
  gloraParameters,
  type Method,
  searchForms,
  setForms,
} from "../src/methods/index.js";
import {
  agreement,
  computer,
  disturb,
  learn,
  lowRank,
  norm,
  normals,
  numbersOf,
  type PlantedMap,
  type PlantedSites,
  plant,
  plus,
  shapeOf,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface GloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<GloraConfig>;
  readonly search?: typeof searchForms;
  /** Updates of the supernet; 0 leaves the search out. Default 2000. */
  readonly steps?: number;
}

/** What GLoRA's forms compute, that one set of masks serves all of them, and that the search finds planted forms. */
export function gloraProof(options: GloraProofOptions = {}): Proof {
  const { method = gloraMethod, search = searchForms, steps = 2000 } = options;
  return {
    name: "glora",
    title: "GLoRA's 432 forms share their numbers and one graph; evolution finds planted forms",
    papers: ["2306.07967"],
    async run() {
      return [
        ...(await forms(method)),
        ...(await pictures(method)),
        ...(steps ? await planted(method, search, steps) : []),
      ];
    },
  };
}

const withBias = (map: PlantedMap): PlantedMap => ({ ...map, bias: normals(map.out, "bias", map.path) });

/** W' and b' of one configuration in plain arithmetic, out of the supernet's numbers. */
function formula(map: PlantedMap, live: PlantedSites, forms: GloraForms, rank: number) {
  const { out, in: inn, weight } = map;
  const term = (name: string, form: string, rows: number, columns: number) => {
    const [down, up] = [numbersOf(live, `glora_${name}.Xd`), numbersOf(live, `glora_${name}.Xu`)];
    if (form === "vector")
      return Float32Array.from({ length: rows * columns }, (_, at) =>
        Number(down[Math.floor(at / columns) * rank]),
      );
    if (form === "constant") return new Float32Array(rows * columns).fill(Number(down[0]));
    return form === "none" ? new Float32Array(rows * columns) : times(down, up, [rows, rank, columns]);
  };
  const shift = (name: string, form: string) => {
    const x = numbersOf(live, `glora_${name}.X`);
    if (form === "none") return new Float32Array(out);
    return form === "vector" ? x : new Float32Array(out).fill(Number(x[0]));
  };
  const [a, b, c] = [term("A", forms.a, out, inn), term("B", forms.b, out, inn), term("C", forms.c, inn, 1)];
  const [d, e] = [shift("D", forms.d), shift("E", forms.e)];
  const prompt = times(weight, c, [out, inn, 1]);
  const bias = (map.bias as Float32Array).map(
    (value, i) => value * (1 + Number(d[i])) + Number(e[i]) + Number(prompt[i]),
  );
  return { weight: weight.map((value, at) => value * (1 + Number(a[at])) + Number(b[at])), bias };
}

/** All 432 forms on one graph: the start, the formula, and the count of numbers. */
async function forms(method: Method<GloraConfig>): Promise<Check[]> {
  const map = withBias(plant("forms", [6, 8], new Float32Array(48)));
  const { config } = glora({ supernet: true, ranks: [3] });
  const adaptation = { method, config };
  const site = shapeOf(map);
  const choices = gloraChoices(site, config);
  const sizes = Object.values(choices.forms).map(({ length }) => length);
  const total = sizes.reduce((x, y) => x * y, 1);
  let [atStart, wrong, counted] = [0, 0, 0];
  const largest = (x: Float32Array, y: Float32Array) => norm(plus(x, y, -1));
  const live = await start(adaptation, [map]);
  const graph = await computer(adaptation, map, live);
  for (const moved of [false, true]) {
    if (moved) disturb(live, 0.3);
    for (let index = 0; index < total; index++) {
      let rest = index;
      const chosen = formsAt(
        choices,
        sizes.map((size) => {
          const own = rest % size;
          rest = Math.floor(rest / size);
          return own;
        }),
      );
      setForms(live.sites[0] as (typeof live.sites)[number], chosen, config);
      const found = await graph.run(new Float32Array(map.in));
      const wanted = moved
        ? formula(map, live, chosen, 3)
        : { weight: map.weight, bias: map.bias as Float32Array };
      const off = largest(found.weight, wanted.weight) + largest(found.bias as Float32Array, wanted.bias);
      if (moved) wrong = Math.max(wrong, off);
      else atStart = Math.max(atStart, off);
      if (gloraParameters(site, config, chosen) !== counting(chosen, map, 3)) counted++;
    }
  }
  await graph.close();
  const check = (what: string, measured: number, tolerance: number): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  return [
    { what: "configurations of one module", measured: total, expected: 432, tolerance: 0 },
    check("change at the start, largest of all configurations", atStart, 1e-6),
    check("distance from the formula, largest of all configurations", wrong, 1e-4),
    check("configurations whose number of parameters is not the table's", counted, 0),
  ];
}

/** The paper's table. */
function counting({ a, b, c, d, e }: GloraForms, { out, in: inn }: PlantedMap, rank: number): number {
  const of = (form: string, vector: number, lora: number) =>
    form === "none" ? 0 : form === "constant" ? 1 : form === "vector" ? vector : lora;
  const factors = [a, b].reduce((sum, form) => sum + of(form, out, rank * (out + inn)), 0);
  return factors + of(c, inn, rank * (inn + 1)) + of(d, out, 0) + of(e, out, 0);
}

/** Single forms that are methods of their own. */
async function pictures(method: Method<GloraConfig>): Promise<Check[]> {
  const map = withBias(plant("single", [6, 8], new Float32Array(48)));
  const none = { a: "none", b: "none", c: "none", d: "none", e: "none" } as const;
  const made = async (own: Partial<typeof none> | Record<string, string>) => {
    const adaptation = { method, config: glora({ ranks: [3], ...none, ...own }).config };
    const live = await start(adaptation, [map]);
    disturb(live, 0.3);
    return { adaptation, live };
  };
  const loraLike = await made({ b: "lora" });
  const product = times(
    numbersOf(loraLike.live, "glora_B.Xd"),
    numbersOf(loraLike.live, "glora_B.Xu"),
    [6, 3, 8],
  );
  const prompt = await made({ c: "vector" });
  const shifted = times(map.weight, numbersOf(prompt.live, "glora_C.X"), [6, 8, 1]);
  const scaled = await made({ a: "constant", d: "constant" });
  const [a, d] = [numbersOf(scaled.live, "glora_A.X"), numbersOf(scaled.live, "glora_D.X")];
  d.set(a);
  const bias = map.bias as Float32Array;
  const times1a = (x: Float32Array) => x.map((value) => value * (1 + Number(a[0])));
  return [
    ...(await agreement("B alone is LoRA of scale 1", loraLike.adaptation, map, loraLike.live, {
      weight: plus(map.weight, product),
      bias,
    })),
    ...(await agreement("C is a prompt, W(x + c) + b", prompt.adaptation, map, prompt.live, {
      weight: map.weight,
      bias: plus(bias, shifted),
    })),
    ...(await agreement("constant A = D scales the whole output", scaled.adaptation, map, scaled.live, {
      weight: times1a(map.weight),
      bias: times1a(bias),
    })),
  ];
}

const SEEDS = [1, 2, 3];

/** Four maps whose targets need: rows scaled; a rank-4 update; a shifted bias; nothing. */
function problem() {
  const [out, inn] = [16, 16];
  const base = (path: string, delta: Float32Array = new Float32Array(out * inn)) =>
    withBias(plant(path, [out, inn], delta));
  const rows = normals(out, "rows");
  const first = base("scaled");
  const none: GloraForms = { a: "none", b: "none", c: "none", d: "none", e: "none" };
  const plain: PlantedMap[] = [
    {
      ...first,
      target: Float32Array.from(
        first.weight,
        (value, at) => value * (1 + 0.7 * Number(rows[Math.floor(at / inn)])),
      ),
    },
    base("added", lowRank(out, inn, 4, 0.25, "added")),
    base("shifted"),
    base("kept"),
  ];
  const maps = plain.map((map) => ({
    ...map,
    targetBias:
      map.path === "shifted"
        ? plus(map.bias as Float32Array, normals(out, "shift"))
        : (map.bias as Float32Array),
  }));
  const selection: Record<string, GloraForms> = {
    scaled: { ...none, a: "vector" },
    added: { ...none, b: "lora-4" },
    shifted: { ...none, e: "vector" },
    kept: none,
  };
  return { maps, selection };
}

async function planted(
  method: Method<GloraConfig>,
  search: typeof searchForms,
  steps: number,
): Promise<Check[]> {
  const { maps, selection } = problem();
  const { config } = glora({ supernet: true });
  const adaptation = { method, config };
  const { live } = await learn(adaptation, maps, { steps, lr: 1e-2, decay: true });
  const graphs = await Promise.all(maps.map((map, index) => computer(adaptation, map, live, index)));
  const loss = async () => {
    let sum = 0;
    for (const [index, { run }] of graphs.entries()) {
      const map = maps[index] as (typeof maps)[number];
      const { weight, bias } = await run(new Float32Array(map.in));
      sum +=
        norm(plus(weight, map.target, -1)) ** 2 + norm(plus(bias as Float32Array, map.targetBias, -1)) ** 2;
    }
    return sum / (maps.length * 16);
  };
  const count = (forms: Record<string, GloraForms>) =>
    maps.reduce((sum, map) => sum + gloraParameters(shapeOf(map), config, forms[map.path] as GloraForms), 0);
  for (const [index, map] of maps.entries())
    setForms(live.sites[index] as (typeof live.sites)[number], selection[map.path] as GloraForms, config);
  const right = await loss();
  const budget = count(selection) + 20;
  const seen: { generation: number; loss: number; parameters: number }[] = [];
  const once = (seed: number) =>
    search(live.sites, config, {
      ...{ loss, budget, population: 30, generations: 10, seed },
      onCandidate: (each, generation) =>
        seen.push({ generation, loss: each.loss, parameters: each.parameters }),
    });
  const least = (losses: readonly { loss: number }[]) => Math.min(...losses.map((each) => each.loss));
  const [overRight, overRandom]: [number[], number[]] = [[], []];
  let worse = 0;
  for (const seed of SEEDS) {
    seen.length = 0;
    const best = await once(seed);
    overRight.push(best.loss / right);
    overRandom.push(best.loss / least(seen.filter(({ generation }) => generation === 0)));
    const soFar = Array.from({ length: 10 }, (_, at) =>
      least(seen.filter(({ generation }) => generation <= at)),
    );
    worse += soFar.filter((value, at) => at > 0 && value > Number(soFar[at - 1])).length;
    if (Math.max(...seen.map((each) => each.parameters)) > budget) worse++;
  }
  const again = [await once(1), await once(1)].map((each) => each.loss);
  await Promise.all(graphs.map(({ close }) => close()));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [
    between("search: loss of the best found over that of the planted forms", Math.max(...overRight), 0, 1.1),
    // Random candidates are trimmed to the budget, which makes them better than drawn ones that happen to meet it.
    between(
      "search: over the best of 30 random candidates, mean of three searches",
      mean(overRandom),
      0,
      0.65,
    ),
    between("search: candidates over the budget, and generations that lost the best", worse, 0, 0),
    between("search: difference of a second run", Number(again[1]) - Number(again[0]), 0, 0),
  ];
}
