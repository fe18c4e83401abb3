import { TunesmithError } from "../../errors/index.js";

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
