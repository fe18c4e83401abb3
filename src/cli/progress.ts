import cliProgress from "cli-progress";
import { formatDuration } from "../training/index.js";
import type { Progress } from "./ui.js";

/** Between two lines where there is no terminal to draw a bar on. */
const LINE_EVERY_MS = 5000;

/** A progress bar on stderr; plain lines every few seconds where that is not a terminal. */
export function progress(label: string, total: number): Progress {
  return process.stderr.isTTY ? bar(label, total) : lines(label, total);
}

function bar(label: string, total: number): Progress {
  const shown = new cliProgress.SingleBar({
    format: `${label} {bar} {value}/{total} {eta_formatted}{detail}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    barsize: 28,
    etaBuffer: 20,
    fps: 10,
  });
  shown.start(total, 0, { detail: "" });
  return {
    update: (done, detail) => shown.update(done, { detail: detail ? `  ${detail}` : "" }),
    stop: () => shown.stop(),
  };
}

function lines(label: string, total: number): Progress {
  const start = performance.now();
  let last = start;
  return {
    update(done, detail) {
      const now = performance.now();
      if (now - last < LINE_EVERY_MS) return;
      last = now;
      const left = done > 0 ? `, ${formatDuration(((now - start) / done / 1000) * (total - done))} left` : "";
      process.stderr.write(`${label} ${done}/${total}${left}${detail ? `  ${detail}` : ""}\n`);
    },
    stop() {},
  };
}
