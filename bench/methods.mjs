// A training step of every method against LoRA's at equal rank.

/** Above this the documents say what takes the time. */
const TARGET = 1.5;

export function methodsSection({ ours }) {
  const { rows, loraTrained } = ours({}, "method-steps.mjs");
  const failed = rows.filter((row) => row.failed).map((row) => `${row.name} (${row.failed})`);
  return {
    loraTrained,
    ...(failed.length > 0 ? { leftOut: failed.join("; ") } : {}),
    rows: rows
      .filter((row) => !row.failed)
      .map(({ name, seconds, lora, products, passes, operators }) => ({
        what: name,
        unit: "s",
        ours: seconds,
        peer: lora,
        peerName: "lora",
        ratio: seconds / lora,
        target: TARGET,
        // What its mathematics asks for: work in matrix products and in all else, and operators, over LoRA's.
        extra: { products, passes, operators },
      })),
  };
}
