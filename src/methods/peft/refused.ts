import { TunesmithError } from "../../errors/index.js";
import type { SiteShape } from "../method.js";

/** Throws `format-unsupported` for a convolution in groups, where PEFT's update is another, or none. */
export function refusedGroups({ path, conv }: SiteShape): void {
  const groups = conv?.groups ?? 1;
  if (groups === 1) return;
  throw new TunesmithError(
    "format-unsupported",
    `${path} is a convolution in groups: PEFT's update of it mixes channels across groups, which no weight in groups can hold`,
    {
      fix: "leave it out of the targets (PEFT cannot merge it either), or merge the adapter and save the model",
      details: { path, groups },
    },
  );
}

/** Throws `adapter-invalid` for an option that changes the mathematics and that we do not have. */
export function refused(
  config: Readonly<Record<string, unknown>>,
  keys: readonly string[],
  file: string,
): void {
  const found = keys.find(
    (key) => config[key] !== undefined && config[key] !== null && config[key] !== false && config[key] !== 0,
  );
  if (found === undefined) return;
  throw new TunesmithError("adapter-invalid", `${file}: '${found}' is set, which is not supported`, {
    fix: "merge the adapter where it was made, or train without this option",
  });
}
