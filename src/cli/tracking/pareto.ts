import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";

/** A method as a point of the chart. */
export interface ParetoPoint {
  readonly method: string;
  readonly parameters: number;
  readonly memoryBytes: number;
  readonly stepSeconds: number;
  readonly lossAfter: number;
  readonly scores: Readonly<Record<string, number>>;
  readonly failed?: string;
}

/** What a method costs: a panel of the chart each. */
const COSTS: readonly { readonly label: string; cost(point: ParetoPoint): number }[] = [
  { label: "trained parameters", cost: ({ parameters }) => parameters },
  { label: "memory of the run (MB)", cost: ({ memoryBytes }) => memoryBytes / 1e6 },
  { label: "time of a step (ms)", cost: ({ stepSeconds }) => 1000 * stepSeconds },
];

const HIGH_IS_GOOD = new Set(["accuracy", "f1"]);
const [WIDTH, HEIGHT] = [820, 400];

/** Points that no other beats in both: as cheap and as good. */
export function paretoFront<T>(
  points: readonly T[],
  cost: (point: T) => number,
  value: (point: T) => number,
  highIsGood: boolean,
): T[] {
  const better = (a: number, b: number) => (highIsGood ? a > b : a < b);
  return points
    .filter(
      (point) =>
        !points.some(
          (other) =>
            other !== point &&
            cost(other) <= cost(point) &&
            !better(value(point), value(other)) &&
            (cost(other) < cost(point) || better(value(other), value(point))),
        ),
    )
    .sort((a, b) => cost(a) - cost(b));
}

/** Parameters, memory and time against the score (or the held-out loss), with the front of each, as one SVG. */
export function paretoChart(results: readonly ParetoPoint[], score: string | undefined): string {
  const value = (point: ParetoPoint) => (score ? (point.scores[score] ?? Number.NaN) : point.lossAfter);
  const points = results.filter((point) => point.failed === undefined && Number.isFinite(value(point)));
  const panels = COSTS.map(({ label, cost }, at) => {
    const svg = panel(points, { label, cost, value, score: score ?? "held-out loss" });
    return svg.replace("<svg ", `<svg y="${at * HEIGHT}" `);
  });
  const size = `width="${WIDTH}" height="${COSTS.length * HEIGHT}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="system-ui, sans-serif">${panels.join("")}</svg>`;
}

interface Panel {
  readonly label: string;
  readonly score: string;
  cost(point: ParetoPoint): number;
  value(point: ParetoPoint): number;
}

function panel(points: readonly ParetoPoint[], { label, score, cost, value }: Panel): string {
  const { document } = parseHTML("<html><body></body></html>");
  const front = paretoFront(points, cost, value, HIGH_IS_GOOD.has(score));
  return Plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 60,
    grid: true,
    x: { type: "log", label },
    y: { label: score },
    marks: [
      Plot.line(front, { x: cost, y: value, stroke: "#97bbf5", strokeWidth: 2 }),
      Plot.dot(points, { x: cost, y: value, fill: "#4269d0", r: 3 }),
      Plot.text(points, { x: cost, y: value, text: "method", dy: -8, fontSize: 10 }),
    ],
  }).outerHTML;
}
