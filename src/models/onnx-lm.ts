import type { CausalLm } from "./types.js";
export async function loadOnnxLm(_path: string): Promise<CausalLm> {
  throw new Error("later");
}
