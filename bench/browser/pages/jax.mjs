// The work in jax-js on its WASM backend, operation by operation: compiled as a whole (`jit`, the other variant) it takes
// half as much time again, since products then repeat the elementwise work that was fused into them. Every use of an
// array but its last takes a reference, as that library's memory model asks.
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { labelsOf, layerNames, rotaryTables, trainer } from "./measure.mjs";

const arrayOf = ({ shape, data }) => np.array(data.slice()).reshape([...shape]);

/** Loss of one batch; `trained` is what it is differentiated by. Consumes what it is given. */
function lossOf(work) {
  const { batch, length, config, scale } = work;
  const { num_attention_heads: heads, head_dim: dim, rms_norm_eps: eps } = config;
  return (trained, frozen, ids, target, weights) => {
    const use = (name) => (frozen[name] ?? trained[name]).ref;
    const linear = (x, name) => np.matmul(x, np.transpose(use(name)));
    const norm = (x, name) => {
      const mean = np.mean(np.square(x.ref), -1, { keepdims: true });
      return x.mul(np.reciprocal(np.sqrt(mean.add(eps)))).mul(use(name));
    };
    const split = (x) => x.reshape([batch, length, heads, dim]);
    const rotate = (x) => {
      const [a, b] = np.split(x, 2, -1);
      const left = a.ref.mul(use("cos")).sub(b.ref.mul(use("sin")));
      return np.concatenate([left, b.mul(use("cos")).add(a.mul(use("sin")))], -1);
    };
    let x = np.take(use("model.embed_tokens.weight"), ids, 0);
    for (let layer = 0; layer < config.num_hidden_layers; layer++) {
      const { weight, part } = layerNames(work, layer);
      const adapted = (h, name) => {
        const low = np.matmul(h.ref, np.transpose(use(part(name, "A"))));
        const update = np.matmul(low, np.transpose(use(part(name, "B")))).mul(scale);
        return linear(h, weight(`self_attn.${name}`)).add(update);
      };
      const h = norm(x.ref, weight("input_layernorm"));
      const q = rotate(split(adapted(h.ref, "q_proj")));
      const k = rotate(split(linear(h.ref, weight("self_attn.k_proj"))));
      const v = split(adapted(h, "v_proj"));
      const mixed = nn
        .dotProductAttention(q, k, v, { isCausal: true })
        .reshape([batch * length, heads * dim]);
      x = x.add(linear(mixed, weight("self_attn.o_proj")));
      const inner = norm(x.ref, weight("post_attention_layernorm"));
      const gate = nn.silu(linear(inner.ref, weight("mlp.gate_proj")));
      x = x.add(linear(gate.mul(linear(inner, weight("mlp.up_proj"))), weight("mlp.down_proj")));
    }
    const head = work.tensors["lm_head.weight"] ? "lm_head.weight" : "model.embed_tokens.weight";
    const logits = linear(norm(x, "model.norm.weight"), head);
    const picked = np.sum(logits.ref.mul(target), -1);
    const loss = np.sum(nn.logsumexp(logits, -1).sub(picked).mul(weights));
    for (const array of Object.values(frozen)) array.dispose();
    for (const array of Object.values(trained)) array.dispose();
    return loss;
  };
}

/** Loss, and adapter and moments after Adam's update; `rate1` and `rate2` undo the moments' bias. */
function update(work) {
  const gradient = valueAndGrad(lossOf(work));
  return (trained, first, second, frozen, ids, target, weights, rate1, rate2) => {
    const held = Object.fromEntries(work.adapter.map((name) => [name, trained[name].ref]));
    const [loss, grads] = gradient(trained, frozen, ids, target, weights);
    const [next, m, v] = [{}, {}, {}];
    for (const name of work.adapter) {
      m[name] = first[name].mul(0.9).add(grads[name].ref.mul(0.1));
      v[name] = second[name].mul(0.999).add(np.square(grads[name]).mul(0.001));
      const change = m[name].ref
        .mul(rate1.ref)
        .div(np.sqrt(v[name].ref.mul(rate2.ref)).add(1e-8))
        .mul(work.learningRate);
      next[name] = held[name].sub(change);
    }
    rate1.dispose();
    rate2.dispose();
    return [loss, next, m, v];
  };
}

async function prepare(work, compile) {
  // It takes as many workers as there are processors; two threads are what the others get.
  Object.defineProperty(navigator, "hardwareConcurrency", { value: 2, configurable: true });
  await init("wasm");
  defaultDevice("wasm");
  const { length, tensors, adapter, batch } = work;
  const tables = rotaryTables(work);
  const shape = [1, length, 1, tables.half];
  const frozen = {
    cos: arrayOf({ shape, data: tables.cos }),
    sin: arrayOf({ shape, data: tables.sin }),
  };
  for (const [name, value] of Object.entries(tensors))
    if (!adapter.includes(name)) frozen[name] = arrayOf(value);
  let trained = Object.fromEntries(adapter.map((name) => [name, arrayOf(tensors[name])]));
  const zeros = () => Object.fromEntries(adapter.map((name) => [name, np.zeros([...tensors[name].shape])]));
  let [first, second] = [zeros(), zeros()];
  const improve = compile(update(work));
  const targets = batch * (length - 1);
  return async (ids, at) => {
    const labels = labelsOf(ids, length);
    const hot = new Float32Array(labels.length * work.vocabulary);
    for (const [row, label] of labels.entries()) if (label >= 0) hot[row * work.vocabulary + label] = 1;
    const weights = Float32Array.from(labels, (label) => (label < 0 ? 0 : 1 / targets));
    const kept = Object.fromEntries(Object.entries(frozen).map(([name, array]) => [name, array.ref]));
    const [loss, next, m, v] = improve(
      ...[trained, first, second, kept],
      np.array(Int32Array.from(ids), { dtype: np.int32 }),
      np.array(hot).reshape([labels.length, work.vocabulary]),
      np.array(weights),
      np.array(1 / (1 - 0.9 ** at)),
      np.array(1 / (1 - 0.999 ** at)),
    );
    [trained, first, second] = [next, m, v];
    // The loss alone is there before the gradients are.
    await blockUntilReady([trained, first, second]);
    return (await loss.data())[0];
  };
}

export const library = trainer((work) => prepare(work, (f) => f));
export const compiledLibrary = trainer((work) => prepare(work, jit));
