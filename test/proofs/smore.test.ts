import { smoreProof } from "../../proofs/smore.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type Method, type SmoreConfig, smoreMethod, type TensorValues } from "../../src/methods/index.js";
import { altered, proves } from "./mutants.js";

const { forward } = smoreMethod;

/** The method with some of its tensors changed. */
const changed = (names: RegExp, change: (value: Value) => Value): Method<SmoreConfig> =>
  altered<SmoreConfig>(smoreMethod, {
    values: (values): TensorValues =>
      Object.fromEntries(
        Object.entries(values).map(([key, value]) => [key, names.test(key) ? change(value) : value]),
      ),
  });

/** Rows one further down, the last first. */
const shifted = (value: Value): Value => {
  const count = value.shape[0] as number;
  return ops.concat([ops.slice(value, 0, count - 1, count), ops.slice(value, 0, 0, count - 1)], 0);
};

/** What a gate knows besides the token forgotten. */
const blind = (value: Value): Value => {
  const [rows, columns] = value.shape as [number, number];
  const kept = ops.slice(value, 1, 0, 2);
  return columns === 2 ? value : ops.concat([kept, ops.full([rows, columns - 2], 0, "float32")], 1);
};

const proof = (method: Method<SmoreConfig>) => smoreProof({ method, learning: false });

proves([smoreProof({ learning: { seeds: [3], steps: 1500 } })], {
  "children that do not see their parents": [
    proof(changed(/gate_in_\d/, blind)),
    /every path|blocks of the root/,
  ],
  "keys of other experts": [proof(changed(/gate_keys/, shifted)), /every path/],
  "nothing carried from below": [proof(changed(/smore_W_\d/, (w) => ops.mul(w, 0))), /blocks of the root/],
  "no activation": [
    proof(altered<SmoreConfig>(smoreMethod, { config: (c) => ({ ...c, activation: "identity" }) })),
    /tanh: the same/,
  ],
  "an output that starts somewhere else": [
    proof(changed(/smore_proj_bias/, (b) => ops.add(b, 1e-6))),
    /change at the start/,
  ],
  "half the balance loss": [
    proof({
      ...smoreMethod,
      forward: (call, config) =>
        forward({ ...call, addLoss: (term) => call.addLoss(ops.mul(term, 0.5)) }, config),
    }),
    /uniform routing/,
  ],
  "padding that counts": [
    proof({ ...smoreMethod, forward: (call, config) => forward({ ...call, mask: undefined }, config) }),
    /padding/,
  ],
  "experts that write into each other's rows": [
    proof({
      ...smoreMethod,
      tensors: (site, config) => smoreMethod.tensors(site, { ...config, init: "w_final_zero" }),
    }),
    /blocks of the root/,
  ],
});
