import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";

/** A method as a point of the chart. */
export interface ParetoPoint {
  readonly method: string;
  readonly parameters: number;
  readonly lossAfter: number;
  readonly scores: Readonly<Record<string, number>>;
  readonly failed?: string;
}

const HIGH_IS_GOOD = new Set(["accuracy", "f1"]);

/** Points that no other beats in both: as few parameters and as good. */
export function paretoFront<T extends ParetoPoint>(
  points: readonly T[],
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
            other.parameters <= point.parameters &&
            !better(value(point), value(other)) &&
            (other.parameters < point.parameters || better(value(other), value(point))),
        ),
    )
    .sort((a, b) => a.parameters - b.parameters);
}

/** Parameters against the score (or the held-out loss), with the front, as SVG. */
export function paretoChart(results: readonly ParetoPoint[], score: string | undefined): string {
  const { document } = parseHTML("<html><body></body></html>");
  const value = (point: ParetoPoint) => (score ? (point.scores[score] ?? Number.NaN) : point.lossAfter);
  const points = results.filter((point) => point.failed === undefined && Number.isFinite(value(point)));
  const front = paretoFront(points, value, HIGH_IS_GOOD.has(score ?? ""));
  const svg = Plot.plot({
    document,
    width: 820,
    height: 460,
    marginLeft: 60,
    grid: true,
    x: { type: "log", label: "trained parameters" },
    y: { label: score ?? "held-out loss" },
    marks: [
      Plot.line(front, { x: "parameters", y: value, stroke: "#97bbf5", strokeWidth: 2 }),
      Plot.dot(points, { x: "parameters", y: value, fill: "#4269d0", r: 3 }),
      Plot.text(points, { x: "parameters", y: value, text: "method", dy: -8, fontSize: 10 }),
    ],
  });
  return svg.outerHTML.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ');
}
