import { TunesmithError } from "../errors/index.js";
import type { CausalLm } from "../models/index.js";

/** Throws `data-empty` when no token of the rows is trained: their loss would be 0 / 0. */
export function checkTrained(
  packs: readonly { readonly examples: readonly { readonly lossMask: Uint8Array }[] }[],
  what: string,
): void {
  // The first token of an example has nothing before it to be predicted from.
  if (packs.some(({ examples }) => examples.some(({ lossMask }) => lossMask.includes(1, 1)))) return;
  throw new TunesmithError("data-empty", `no token of the ${what} is trained`, {
    fix: "check its loss masks and the dataset's report",
  });
}

/** Throws `data-invalid` for packs that the model cannot read as they are: mixed documents, unknown tokens. */
export function checkPacks(
  model: CausalLm,
  packs: readonly { readonly examples: readonly { readonly ids: Int32Array }[] }[],
): void {
  checkPackable(model, packs);
  const { vocabSize } = model.sizes;
  for (const { examples } of packs) {
    for (const { ids } of examples) {
      const bad = ids.find((id) => id < 0 || id >= vocabSize);
      if (bad === undefined) continue;
      throw new TunesmithError(
        "data-invalid",
        `the data has token ${bad}; the model knows 0 to ${vocabSize - 1}`,
        {
          fix: "the tokenizer is not the model's own: use the files that came with it",
          details: { id: bad, vocabSize },
        },
      );
    }
  }
}

/** Tokenizers may name a padding token that was never given a row of the embedding; nobody sees what fills a row up. */
export const knownPadId = (model: CausalLm, padId: number): number =>
  padId < model.sizes.vocabSize ? padId : 0;

/** Throws `data-invalid` when rows hold several documents and the model cannot keep them apart. */
function checkPackable(model: CausalLm, packs: readonly { readonly examples: readonly unknown[] }[]): void {
  if (model.packable !== false) return;
  const shared = packs.findIndex(({ examples }) => examples.length > 1);
  if (shared < 0) return;
  throw new TunesmithError(
    "data-invalid",
    `row ${shared} holds ${packs[shared]?.examples.length} documents, which this model would mix: its file has a padding mask only`,
    {
      fix: "put one document in each row (packing: none), or export the model without a cache with exportOnnx",
      details: { row: shared },
    },
  );
}
