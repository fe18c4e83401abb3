import type { InputSpec } from "../../types.js";

/** Images of any size, `[batch, channels, height, width]`. */
export const imageInput = (channels: number): InputSpec => ({
  name: "pixel_values",
  dtype: "float32",
  shape: ["batch", channels, "height", "width"],
});
