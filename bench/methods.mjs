// A training step of every method against LoRA's at equal rank.

/** Above this the documents say what in the method's mathematics takes the time. */
const TARGET = 1.5;

export function methodsSection({ ours }) {
  const { rows, loraTrained } = ours({}, "method-steps.mjs");
  const failed = rows.filter((row) => row.failed).map((row) => `${row.name} (${row.failed})`);
  return {
    loraTrained,
    ...(failed.length > 0 ? { leftOut: failed.join("; ") } : {}),
    rows: rows
      .filter((row) => !row.failed)
      .map(({ name, seconds, lora }) => ({
        what: name,
        unit: "s",
        ours: seconds,
        peer: lora,
        peerName: "lora",
        ratio: seconds / lora,
        target: TARGET,
      })),
  };
}
