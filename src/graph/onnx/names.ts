/** Hands out names that are unique in a file; names are kept wherever they can be. */
export interface NamePool {
  /** Takes `name` exactly; false when it is taken already. */
  reserve(name: string): boolean;
  /** Takes `name`, or `name_1`, `name_2`, ... */
  claim(name: string): string;
}

export function namePool(): NamePool {
  const used = new Set<string>();
  const next = new Map<string, number>();
  return {
    reserve(name) {
      if (used.has(name)) return false;
      used.add(name);
      return true;
    },
    claim(name) {
      let candidate = name;
      for (let count = next.get(name) ?? 1; used.has(candidate); count++) {
        candidate = `${name}_${count}`;
        next.set(name, count + 1);
      }
      used.add(candidate);
      return candidate;
    },
  };
}

/**
 * A node's name as PyTorch's exporter writes it: `/model/layers.0/self_attn/q_proj/Gemm` for the module path
 * `model.layers.0.self_attn.q_proj`. List indices stay with their list.
 */
export function nodePath(scope: string, op: string): string {
  const parts: string[] = [];
  for (const part of scope.split(".").filter((text) => text !== "")) {
    if (/^\d+$/.test(part) && parts.length > 0) parts.push(`${parts.pop()}.${part}`);
    else parts.push(part);
  }
  return `/${[...parts, op].join("/")}`;
}

/** The module path in a node name: the inverse of `nodePath`; empty when the name holds none. */
export function scopeOf(nodeName: string): string {
  const parts = nodeName.split("/").filter((part) => part !== "");
  return parts.slice(0, -1).join(".");
}
