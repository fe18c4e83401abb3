import { TunesmithError } from "../../errors/index.js";
import type { Model } from "../../models/index.js";
import { siteShapes } from "../adapter.js";
import type { LoraConfig } from "../lowrank/lora.js";
import { loraScale } from "../lowrank/scale.js";
import type { Adaptation, SiteConfig } from "../method.js";

/** Floating-point operations of one linear map in one step, a multiplication and an addition counted as two. */
export interface LoraFlops {
  /** W·x: 2·N·in·out. */
  readonly forwardBase: number;
  /** B·A·x: 2·N·r·(in + out). */
  readonly forwardAdapter: number;
  /** Gradients of A and B, and through them: 4·N·r·(in + out). */
  readonly backwardAdapter: number;
  /** Wᵀ·dy, which the layers below want: 2·N·in·out. The weight itself has no gradient. */
  readonly backwardBase: number;
}

/** What LoRA takes at one map. */
export interface LoraSiteCost {
  readonly path: string;
  readonly rank: number;
  readonly flops: LoraFlops;
  /** Trained numbers: r·(in + out). */
  readonly parameters: number;
  /** Numbers kept from the forward pass for the gradients of A and B: the inputs and what A makes of them, N·(in + r). */
  readonly kept: number;
}

export interface LoraCost {
  readonly sites: readonly LoraSiteCost[];
  /** Sums over the sites. */
  readonly flops: LoraFlops;
  readonly parameters: number;
  /** Bytes of the trained numbers, their gradients and two moments of each, in float32. */
  readonly stateBytes: number;
  /** Bytes of what is kept at all sites; maps that read the same inputs keep them once, so it may be less. */
  readonly keptBytes: number;
  /** Operations of all adapted maps over those of full fine-tuning, which are 6·N·in·out each. */
  readonly ofFull: number;
}

const NOTHING: LoraFlops = { forwardBase: 0, forwardAdapter: 0, backwardAdapter: 0, backwardBase: 0 };

/**
 * Operations and memory of LoRA at its sites, without running anything: matrix products only, for `tokens` rows. Attention,
 * norms and maps that are not adapted come on top, the same with and without an adapter.
 *
 * The first map of a model takes less than the table says: nothing below wants a gradient.
 *
 * Throws `target-not-found`, `target-unsupported` for embeddings and convolutions, `config-invalid` for DoRA.
 *
 * @example
 * ```ts
 * import { lora, loraCost } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const { flops, ofFull } = loraCost(await loadModel("path/to/model"), lora({ rank: 8 }), { tokens: 512 });
 * console.log(flops.forwardAdapter, ofFull);
 * ```
 */
export function loraCost(
  model: Model,
  adaptation: Adaptation<LoraConfig>,
  { tokens }: { readonly tokens: number },
): LoraCost {
  const { config } = adaptation;
  if (config.dora) {
    throw new TunesmithError("config-invalid", "DoRA's norms take operations that this table does not have", {
      fix: "leave dora out",
    });
  }
  const sites = siteShapes(model, adaptation as unknown as Adaptation<SiteConfig>).map(
    (site): LoraSiteCost => {
      const { path, kind, inFeatures: inn, outFeatures: out } = site;
      if (kind !== "linear") {
        throw new TunesmithError(
          "target-unsupported",
          `the table is of linear maps, and ${path} is of kind ${kind}`,
          {
            fix: "leave it out of the targets",
            details: { path },
          },
        );
      }
      const { rank } = loraScale(path, config);
      const base = 2 * tokens * inn * out;
      const adapter = 2 * tokens * rank * (inn + out);
      return {
        ...{ path, rank, parameters: rank * (inn + out), kept: tokens * (inn + rank) },
        flops: {
          forwardBase: base,
          forwardAdapter: adapter,
          backwardAdapter: 2 * adapter,
          backwardBase: base,
        },
      };
    },
  );
  const flops = sites.reduce((sum, site) => plus(sum, site.flops), NOTHING);
  const total = (of: (site: LoraSiteCost) => number) => sites.reduce((sum, site) => sum + of(site), 0);
  const parameters = total((site) => site.parameters);
  return {
    ...{ sites, flops, parameters },
    stateBytes: 4 * 4 * parameters,
    keptBytes: 4 * total(({ kept }) => kept),
    ofFull: Object.values(flops).reduce((a, b) => a + b, 0) / (3 * flops.forwardBase),
  };
}

const plus = (a: LoraFlops, b: LoraFlops): LoraFlops => ({
  forwardBase: a.forwardBase + b.forwardBase,
  forwardAdapter: a.forwardAdapter + b.forwardAdapter,
  backwardAdapter: a.backwardAdapter + b.backwardAdapter,
  backwardBase: a.backwardBase + b.backwardBase,
});
