// What every page shares: it reads the work, trains, and reports times.

/** Weights and adapter by name, as views of one buffer: `{shape, data}`. */
export async function readWork() {
  const work = await (await fetch("/work.json")).json();
  const all = new Float32Array(await (await fetch("/work.bin")).arrayBuffer());
  const entries = Object.entries(work.tensors).map(([name, { shape, offset, length }]) => [
    name,
    { shape, data: all.subarray(offset, offset + length) },
  ]);
  return { ...work, tensors: Object.fromEntries(entries) };
}

/** The next token at every position but the last of each row, which has none (-1). */
export const labelsOf = (ids, length) => ids.map((_, at) => ((at + 1) % length === 0 ? -1 : ids[at + 1]));

/** cos and sin of the rotary embedding, `[length, dim/2]`. */
export function rotaryTables({ length, config }) {
  const half = config.head_dim / 2;
  const angles = Array.from(
    { length: length * half },
    (_, at) => Math.floor(at / half) * config.rope_theta ** (-(2 * (at % half)) / config.head_dim),
  );
  const table = (f) => Float32Array.from(angles, f);
  return { half, cos: table(Math.cos), sin: table(Math.sin) };
}

/** Names of a layer's tensors, as the work calls them. */
export const layerNames = ({ adapter }, layer) => {
  const path = `model.layers.${layer}`;
  const weight = (name) => `${path}.${name}.weight`;
  const part = (module, which) =>
    adapter.find((name) => name.includes(`${path}.self_attn.${module}.`) && name.includes(`lora_${which}`));
  return { weight, part };
};

/** What a page exports: `start` prepares, `step` makes one update and returns its loss and time. Seconds. */
export function trainer(prepare) {
  let [work, update, done] = [undefined, undefined, 0];
  return {
    async start() {
      const opened = performance.now();
      work = await readWork();
      update = await prepare(work);
      return { seconds: (performance.now() - opened) / 1000, isolated: globalThis.crossOriginIsolated };
    },
    async step() {
      const started = performance.now();
      const loss = await update(work.ids[done % work.ids.length], ++done);
      return { loss, seconds: (performance.now() - started) / 1000 };
    },
  };
}
