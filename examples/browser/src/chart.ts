import * as Plot from "@observablehq/plot";

/** The loss of every step. */
export function drawLoss(into: HTMLElement, losses: readonly { step: number; loss: number }[]): void {
  into.replaceChildren(
    Plot.plot({
      height: 200,
      y: { grid: true, label: "loss" },
      x: { label: "step" },
      marks: [Plot.lineY(losses, { x: "step", y: "loss", stroke: "#36c" })],
    }),
  );
}
