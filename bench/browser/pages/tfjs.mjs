// The work in TensorFlow.js on its WASM backend. Its kernel multiplies fast (XNNPACK) only two matrices of which none is
// to be transposed, and its own gradients ask for transposed ones; so the products here have gradients of their own that
// transpose first, and attention multiplies head by head. What one would write first (`plain`, the other variant)
// takes twice as long.
import "@tensorflow/tfjs-core/dist/register_all_gradients.js";
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
import { labelsOf, layerNames, rotaryTables, trainer } from "./measure.mjs";

/** a · b of two matrices. */
const product = tf.customGrad((a, b, save) => {
  save([a, b]);
  return {
    value: tf.matMul(a, b),
    gradFunc: (dy, [x, y]) => [tf.matMul(dy, tf.transpose(y)), tf.matMul(tf.transpose(x), dy)],
  };
});

/** a · b of stacks of matrices, one after the other. */
const headwise = (a, b) => {
  const [left, right] = [tf.unstack(a), tf.unstack(b)];
  return tf.stack(left.map((x, at) => tf.matMul(x, right[at])));
};
const flip = (x) => tf.transpose(x, [0, 2, 1]);
const headProduct = tf.customGrad((a, b, save) => {
  save([a, b]);
  return {
    value: headwise(a, b),
    gradFunc: (dy, [x, y]) => [headwise(dy, flip(y)), headwise(flip(x), dy)],
  };
});

/** x · Wᵀ with a frozen W, of which both layouts are kept. */
const linear = ({ weight, transposed }) =>
  tf.customGrad((x) => ({
    value: tf.matMul(x, transposed),
    gradFunc: (dy) => tf.matMul(dy, weight),
  }));

/** Mean cross-entropy with the gradient softmax - target, as tf.losses has it. */
const crossEntropy = (target, weights) =>
  tf.customGrad((logits, save) => {
    const top = tf.max(logits, -1, true);
    const shifted = tf.sub(logits, top);
    const sums = tf.log(tf.sum(tf.exp(shifted), -1));
    const picked = tf.sum(tf.mul(shifted, target), -1);
    save([logits]);
    return {
      value: tf.sum(tf.mul(tf.sub(sums, picked), weights)),
      gradFunc: (dy, [x]) => tf.mul(tf.sub(tf.softmax(x), target), tf.mul(tf.expandDims(weights, 1), dy)),
    };
  });

function build(work, plain) {
  const { batch, length, config, tensors } = work;
  const { num_attention_heads: heads, head_dim: dim, rms_norm_eps: eps } = config;
  const constants = rotaryTables(work);
  const cos = tf.tensor(constants.cos, [1, length, constants.half]);
  const sin = tf.tensor(constants.sin, [1, length, constants.half]);
  const mask = tf.tensor(
    Float32Array.from({ length: length * length }, (_, at) =>
      at % length > Math.floor(at / length) ? -1e9 : 0,
    ),
    [1, length, length],
  );
  const tensorOf = (name) => tf.tensor(tensors[name].data.slice(), tensors[name].shape);
  const frozen = (name) => {
    const weight = tensorOf(name);
    const transposed = tf.transpose(weight);
    return plain ? (x) => tf.matMul(x, weight, false, true) : linear({ weight, transposed });
  };
  const multiply = plain ? (a, b) => tf.matMul(a, b) : product;
  const multiplyHeads = plain ? (a, b) => tf.matMul(a, b) : headProduct;
  const variables = Object.fromEntries(
    work.adapter.map((name) => [name, tf.variable(tensorOf(name), true, name)]),
  );
  const embedding = tensorOf("model.embed_tokens.weight");
  const head = frozen(tensors["lm_head.weight"] ? "lm_head.weight" : "model.embed_tokens.weight");
  const normWeight = (name) => tensorOf(name);
  const layers = Array.from({ length: config.num_hidden_layers }, (_, at) => {
    const { weight, part } = layerNames(work, at);
    const module = (name) => frozen(weight(name));
    const adapted = (name) => {
      const base = module(`self_attn.${name}`);
      const [a, b] = [variables[part(name, "A")], variables[part(name, "B")]];
      return (x) =>
        tf.add(base(x), tf.mul(multiply(multiply(x, tf.transpose(a)), tf.transpose(b)), work.scale));
    };
    return {
      before: normWeight(weight("input_layernorm")),
      after: normWeight(weight("post_attention_layernorm")),
      ...{ q: adapted("q_proj"), k: module("self_attn.k_proj"), v: adapted("v_proj") },
      out: module("self_attn.o_proj"),
      ...{ gate: module("mlp.gate_proj"), up: module("mlp.up_proj"), down: module("mlp.down_proj") },
    };
  });
  const finalNorm = normWeight("model.norm.weight");
  const norm = (x, weight) =>
    tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps))), weight);
  const splitHeads = (x) =>
    tf.reshape(tf.transpose(tf.reshape(x, [batch, length, heads, dim]), [0, 2, 1, 3]), [
      batch * heads,
      length,
      dim,
    ]);
  const mergeHeads = (x) =>
    tf.reshape(tf.transpose(tf.reshape(x, [batch, heads, length, dim]), [0, 2, 1, 3]), [
      batch * length,
      heads * dim,
    ]);
  const rotate = (x) => {
    const [a, b] = tf.split(x, 2, 2);
    return tf.concat([tf.sub(tf.mul(a, cos), tf.mul(b, sin)), tf.add(tf.mul(b, cos), tf.mul(a, sin))], 2);
  };
  const attend = (q, k, v) => {
    const scores = tf.mul(multiplyHeads(q, tf.transpose(k, [0, 2, 1])), 1 / Math.sqrt(dim));
    return multiplyHeads(tf.softmax(tf.add(scores, mask)), v);
  };
  const forward = (ids) => {
    let x = tf.gather(embedding, ids);
    for (const layer of layers) {
      const normal = norm(x, layer.before);
      const [q, k, v] = [
        rotate(splitHeads(layer.q(normal))),
        rotate(splitHeads(layer.k(normal))),
        splitHeads(layer.v(normal)),
      ];
      x = tf.add(x, layer.out(mergeHeads(attend(q, k, v))));
      const inner = norm(x, layer.after);
      const gate = layer.gate(inner);
      x = tf.add(x, layer.down(tf.mul(tf.mul(gate, tf.sigmoid(gate)), layer.up(inner))));
    }
    return head(norm(x, finalNorm));
  };
  return { forward, variables };
}

async function prepare(work, plain) {
  setWasmPaths("/tfjs/");
  setThreadsCount(2);
  await tf.setBackend("wasm");
  await tf.ready();
  const { forward, variables } = build(work, plain);
  const list = work.adapter.map((name) => variables[name]);
  const optimizer = tf.train.adam(work.learningRate, 0.9, 0.999, 1e-8);
  const targets = work.batch * (work.length - 1);
  return async (ids) => {
    const labels = labelsOf(ids, work.length);
    const loss = tf.tidy(() => {
      const weights = tf.tensor1d(labels.map((label) => (label < 0 ? 0 : 1 / targets)));
      // Asked for float32, this backend's OneHot gives zeros.
      const target = tf.cast(tf.oneHot(tf.tensor1d(labels, "int32"), work.vocabulary), "float32");
      const { value, grads } = tf.variableGrads(
        () => crossEntropy(target, weights)(forward(tf.tensor1d(ids, "int32"))),
        list,
      );
      optimizer.applyGradients(grads);
      return value;
    });
    const [value] = await loss.data();
    loss.dispose();
    return value;
  };
}

export const library = trainer((work) => prepare(work, false));
export const plainLibrary = trainer((work) => prepare(work, true));
