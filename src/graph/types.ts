import type { Dtype, Tensor, TensorRef } from "../tensor/index.js";

/** One axis length: a number, or the name of a symbolic dimension (or an expression over such names). */
export type Dim = number | string;
export type Shape = readonly Dim[];

/** An ONNX attribute, tagged by its protobuf field. */
export type Attr =
  | { readonly i: number | bigint }
  | { readonly f: number }
  | { readonly s: string }
  | { readonly ints: readonly (number | bigint)[] }
  | { readonly floats: readonly number[] }
  | { readonly strings: readonly string[] }
  | { readonly t: Tensor }
  | { readonly g: Graph }
  | { readonly fn: unknown };
export type Attrs = Readonly<Record<string, Attr>>;

export type Source =
  | { readonly kind: "input" }
  | { readonly kind: "constant"; readonly data: Tensor | TensorRef }
  | { readonly kind: "node"; readonly node: Node; readonly index: number };

/**
 * An immutable value of the dataflow graph. Ids grow with creation and a node's inputs exist before it, so
 * ascending id order is a topological order of any set of values.
 */
export interface Value {
  readonly id: number;
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly source: Source;
  /** Name in files: an initialiser's, an input's, or an imported edge's. Not necessarily unique before export. */
  readonly name: string | undefined;
}

/** One operator application. Its identity is the object; it is never changed after creation. */
export interface Node {
  readonly id: number;
  readonly op: string;
  /** `""` for ai.onnx, `com.microsoft`, or `tunesmith` for markers that are lowered away before execution. */
  readonly domain: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attrs: Attrs;
  readonly outputs: readonly Value[];
  /** Module path as the model's community writes it, e.g. `model.layers.0.self_attn.q_proj`. */
  readonly scope: string;
  readonly name: string | undefined;
}

/** A graph is what its outputs reach. `inputs` fixes the order of the feeds; unreached values do not exist. */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly outputs: ReadonlyMap<string, Value>;
  /** For a sub-graph of If/Loop/Scan: the outer values it reads. Its body never crosses them. */
  readonly captures?: readonly Value[];
}
