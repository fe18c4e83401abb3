import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import asciiChart from "simple-ascii-chart";
import { TunesmithError } from "../../errors/index.js";
import { type MetricLine, tensorboardTag } from "../../training/index.js";

/** Lines that share one pair of axes. */
export interface Chart {
  readonly title: string;
  readonly lines: readonly MetricLine[];
}

/** Metrics that are drawn together: `loss` with `evalLoss`. */
export const chartTitle = (metric: string): string => tensorboardTag(metric).split("/").slice(1).join("/");

const COLORS = ["#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#6cc5b0", "#9c6b4e", "#97bbf5"];
const TERMINAL_COLORS = [
  "ansiBlue",
  "ansiRed",
  "ansiGreen",
  "ansiMagenta",
  "ansiYellow",
  "ansiCyan",
] as const;
const [WIDTH, HEIGHT] = [820, 340];
const colorOf = (at: number) => COLORS[at % COLORS.length];

/** A chart in characters, `width` columns wide in all. */
export function terminalChart({ title, lines }: Chart, width: number, colored: boolean): string {
  const points = lines.map(({ steps, values }) =>
    steps.map((step, at): [number, number] => [step, values[at] ?? Number.NaN]),
  );
  const all = points.flat();
  const ticks = (axis: 0 | 1, count: number) => {
    const numbers = all.map((point) => point[axis]);
    const [least, most] = [minOf(numbers), -minOf(numbers.map((value) => -value))];
    if (least === most) return [least];
    return Array.from({ length: count }, (_, at) => least + ((most - least) * at) / (count - 1));
  };
  const whole = (values: readonly number[]) => [...new Set(values.map(Math.round))];
  return asciiChart(points, {
    title,
    width: Math.max(20, width - 12),
    height: 13,
    // Without colours where they would be written to a file.
    ...(colored
      ? { color: lines.map((_, at) => TERMINAL_COLORS[at % TERMINAL_COLORS.length] ?? "ansiBlue") }
      : {}),
    customXAxisTicks: whole(ticks(0, 5)),
    customYAxisTicks: ticks(1, 5),
    formatter: (value, { axis }) => (axis === "y" ? Number(value.toPrecision(4)) : Math.round(value)),
    legend: { position: "bottom", series: lines.map(({ name }) => name) },
  });
}

/** Not `Math.min(...)`: a call takes only so many arguments. */
const minOf = (numbers: readonly number[]): number =>
  numbers.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);

/** A chart as the text of an SVG element. */
export function svgChart({ title, lines }: Chart): string {
  const { document } = parseHTML("<html><body></body></html>");
  const points = lines.flatMap(({ name, steps, values }) =>
    steps.map((step, at) => ({ line: name, step, value: values[at] })),
  );
  const names = lines.map(({ name }) => name);
  const legend = names.map((name, at) =>
    Plot.text([name], {
      frameAnchor: "top-right",
      lineAnchor: "top",
      dx: -4,
      dy: 4 + 15 * at,
      fill: colorOf(at),
      fontWeight: "bold",
      fontSize: 12,
    }),
  );
  const isOnePoint = (name: string) => points.filter(({ line }) => line === name).length === 1;
  const svg = Plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 60,
    grid: true,
    color: { domain: names, range: names.map((_, at) => String(colorOf(at))) },
    x: { label: "step" },
    y: { label: title },
    marks: [
      Plot.line(points, { x: "step", y: "value", stroke: "line", strokeWidth: 1.5 }),
      Plot.dot(
        points.filter(({ line }) => isOnePoint(line)),
        { x: "step", y: "value", fill: "line" },
      ),
      ...legend,
    ],
  });
  return svg.outerHTML.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ');
}

/** Charts below one another in one SVG document. */
export function svgDocument(charts: readonly Chart[]): string {
  const parts = charts.map((chart, at) => svgChart(chart).replace("<svg ", `<svg y="${at * HEIGHT}" `));
  const height = HEIGHT * charts.length;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" color="#1b1e23">${parts.join("")}</svg>`;
}

/** A page that needs nothing but itself: charts, and tables given as rows with their head first. */
export function htmlPage(
  title: string,
  charts: readonly Chart[],
  tables: readonly { readonly title: string; readonly rows: readonly (readonly string[])[] }[],
): string {
  const tableHtml = ({ title, rows }: (typeof tables)[number]) => {
    const [head = [], ...body] = rows;
    const line = (cells: readonly string[], tag: string) =>
      `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join("")}</tr>`;
    return `<h2>${escaped(title)}</h2>\n<table>${line(head, "th")}\n${body.map((row) => line(row, "td")).join("\n")}</table>`;
  };
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escaped(title)}</title>
<style>
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #8884; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
</style>
<h1>${escaped(title)}</h1>
${charts.map((chart) => `<h2>${escaped(chart.title)}</h2>\n${svgChart(chart)}`).join("\n")}
${tables.map(tableHtml).join("\n")}
</html>
`;
}

const escaped = (text: string): string =>
  text.replace(
    /[&<>"]/g,
    (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter] ?? letter,
  );

/** An SVG document as a PNG of twice its size, on white. Throws `runtime-failed` where no font is installed. */
export async function pngOf(svg: string): Promise<Uint8Array> {
  const { Resvg } = await import("@resvg/resvg-js");
  const probe = new Resvg('<svg xmlns="http://www.w3.org/2000/svg"><text x="0" y="10">a</text></svg>');
  if (probe.getBBox() === undefined) {
    throw new TunesmithError("runtime-failed", "PNG: no font is installed, so that labels would be missing", {
      fix: "write .html or .svg instead, or install a font",
    });
  }
  return new Resvg(svg, { background: "white", fitTo: { mode: "zoom", value: 2 } }).render().asPng();
}
