import { expect, test } from "vitest";
import type { MetricLine } from "../../training/index.js";
import { chartTitle, htmlPage, pngOf, svgDocument, terminalChart } from "./charts.js";

const line = (name: string, values: readonly number[]): MetricLine => ({
  name,
  steps: values.map((_, at) => at + 1),
  values,
});
const falling = line("a <b>", [3, 2, 1.5, 1.25]);
const chart = { title: "loss", lines: [falling, line("c", [4, 3, 2.5, 2])] };

test("a terminal chart shows the range, the steps and who is who", () => {
  const text = terminalChart(chart, 60, false);
  for (const part of ["loss", "1.25┤", "4┤", "a <b>", "█ c"]) expect(text).toContain(part);
  expect(text.split("\n").every((row) => row.length <= 62)).toBe(true);
  expect(text).not.toContain("\u001b");
  expect(terminalChart(chart, 60, true)).toContain("\u001b[34m");
});

test("flat and single-point lines can be drawn", () => {
  expect(terminalChart({ title: "x", lines: [line("one", [2])] }, 40, false)).toContain("2┤");
  expect(svgDocument([{ title: "x", lines: [line("one", [2])] }])).toContain("<circle");
  const long = line(
    "long",
    Array.from({ length: 200_000 }, (_, at) => at),
  );
  expect(terminalChart({ title: "x", lines: [{ ...long, ...shortened(long) }] }, 40, false)).toContain("x");
});
const shortened = ({ steps, values }: MetricLine) => ({
  steps: steps.slice(-500),
  values: values.slice(-500),
});

test("a page is complete in itself and escapes what it shows", () => {
  const page = htmlPage(
    "runs <script>",
    [chart],
    [
      {
        title: "t",
        rows: [
          ["k", "v"],
          ["<img src=x>", "&"],
        ],
      },
    ],
  );
  expect(page).toContain("<title>runs &lt;script&gt;</title>");
  expect(page).toContain("<td>&lt;img src=x&gt;</td><td>&amp;</td>");
  expect(page).toContain("a &lt;b&gt;");
  expect(page).not.toMatch(/<script|<img|<link|@import|url\(/);
  expect(page.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:/);
});

test("a PNG of all charts", async () => {
  const svg = svgDocument([chart, { ...chart, title: "other" }]);
  expect(svg.match(/<svg /g)).toHaveLength(3);
  const png = Buffer.from(await pngOf(svg));
  expect(png.subarray(1, 4).toString()).toBe("PNG");
  expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([2 * 820, 2 * 2 * 340]);
});

test("metrics that belong together share a chart", () => {
  expect([chartTitle("loss"), chartTitle("evalLoss"), chartTitle("gradNorm")]).toEqual([
    "loss",
    "loss",
    "grad_norm",
  ]);
});
