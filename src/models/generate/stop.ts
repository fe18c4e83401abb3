/** Watches text for stop strings as it arrives in pieces. */
export interface StopMatcher {
  /** The text that is certainly before any stop string, and whether one was found. */
  push(piece: string): { readonly text: string; readonly stopped: boolean };
  /** What was held back, when no more text comes. */
  end(): string;
}

/** Holds back any ending that could become a stop string, so that no part of one is ever given out. */
export function stopMatcher(stops: readonly string[]): StopMatcher {
  const wanted = stops.filter((stop) => stop !== "");
  let held = "";
  return {
    push(piece) {
      held += piece;
      const at = Math.min(...wanted.map((stop) => held.indexOf(stop)).filter((index) => index >= 0));
      if (Number.isFinite(at)) {
        const text = held.slice(0, at);
        held = "";
        return { text, stopped: true };
      }
      const keep = Math.max(0, ...wanted.map((stop) => overlap(held, stop)));
      const text = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return { text, stopped: false };
    },
    end() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}

/** Length of the longest ending of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (stop.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}
