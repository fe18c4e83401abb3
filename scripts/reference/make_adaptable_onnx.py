"""Small ONNX files in the variety that people have (fixtures/adaptable/*.onnx), and what ONNX Runtime computes of them
(fixtures/adaptable/expected.json): exports named as Optimum names them, half precision, three kinds of quantisation, names
of other exporters, branches.

Usage: python scripts/reference/make_adaptable_onnx.py   (torch, transformers, onnx and onnxruntime; see requirements.txt)
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as tf
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "adaptable"
SIZE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


class Wrapped(torch.nn.Module):
    def __init__(self, model, call):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self.call = lambda *inputs: call(model, *inputs)

    def forward(self, *inputs):
        return self.call(*inputs)


def export(path, model, call, inputs, output, axes, dynamo=False):
    torch.onnx.export(
        Wrapped(model, call).eval(), tuple(inputs.values()), path, input_names=list(inputs), output_names=[output],
        dynamic_axes=axes, opset_version=18 if dynamo else 17, dynamo=dynamo,
    )


def float_models():
    ids = torch.randint(0, 60, (2, 7))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in text}
    bert = tf.BertForSequenceClassification(tf.BertConfig(vocab_size=64, max_position_embeddings=16, num_labels=3, **SIZE))
    call = lambda m, i, a, t: m(input_ids=i, attention_mask=a, token_type_ids=t).logits
    export(FOLDER / "bert.onnx", bert, call, text, "logits", axes | {"logits": {0: "batch_size"}})
    t5 = tf.T5EncoderModel(tf.T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    text = {name: text[name] for name in ("input_ids", "attention_mask")}
    call = lambda m, i, a: m(input_ids=i, attention_mask=a).last_hidden_state
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in (*text, "last_hidden_state")}
    export(FOLDER / "t5-encoder.onnx", t5, call, text, "last_hidden_state", axes)
    vit = tf.ViTForImageClassification(tf.ViTConfig(image_size=16, patch_size=8, num_labels=3, **SIZE))
    image = {"pixel_values": torch.randn(2, 3, 16, 16)}
    axes = {"pixel_values": {0: "batch_size"}, "logits": {0: "batch_size"}}
    export(FOLDER / "vit.onnx", vit, lambda m, x: m(pixel_values=x).logits, image, "logits", axes)


class Images(CalibrationDataReader):
    def __init__(self, name, shape):
        self.batches = iter([{name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}])

    def get_next(self):
        return next(self.batches, None)


def quantised_models():
    half = convert_float_to_float16(onnx.load(FOLDER / "vit.onnx"), keep_io_types=False)
    onnx.save(half, FOLDER / "vit_fp16.onnx")
    quantize_dynamic(FOLDER / "bert.onnx", FOLDER / "bert_dynamic.onnx", weight_type=QuantType.QInt8, per_channel=True)
    quantize_static(
        FOLDER / "convnet.onnx", FOLDER / "convnet_qdq.onnx", Images("input", (2, 3, 8, 8)), quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8, per_channel=True,
    )
    quantize_static(
        FOLDER / "convnet.onnx", FOLDER / "convnet_qlinear.onnx", Images("input", (2, 3, 8, 8)),
        quant_format=QuantFormat.QOperator, weight_type=QuantType.QInt8,
    )
    quantize_dynamic(
        FOLDER / "convnet.onnx", FOLDER / "convnet_dynamic.onnx", weight_type=QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul"],
    )
    four_bits(FOLDER / "bert.onnx", FOLDER / "bert_q4.onnx")


def four_bits(source, target):
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=False)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


def language_model():
    """fixtures/adaptable/lm: a causal language model with 4-bit products."""
    ids = torch.randint(0, 60, (2, 7))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = tf.LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=32, **SIZE)
    call = lambda m, i, a: m(input_ids=i, attention_mask=a, use_cache=False).logits
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in (*text, "logits")}
    (FOLDER / "lm").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder) / "llama.onnx", tf.LlamaForCausalLM(config), call, text, "logits", axes)
        four_bits(Path(folder) / "llama.onnx", FOLDER / "lm" / "llama_q4.onnx")


def weights(shapes, seed=0):
    random = np.random.default_rng(seed)
    return [
        numpy_helper.from_array((random.standard_normal(shape) / 3).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def save(name, nodes, inputs, outputs, shapes, constants=()):
    value = lambda item: helper.make_tensor_value_info(item[0], item[2] if len(item) > 2 else TensorProto.FLOAT, item[1])
    graph = helper.make_graph(nodes, name, [value(x) for x in inputs], [value(x) for x in outputs], [*weights(shapes), *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, FOLDER / f"{name}.onnx")


def named_by_others():
    node = helper.make_node
    # tf2onnx: names are paths of operators in layers, weights are called after the operator that reads them.
    save("keras", [
        node("MatMul", ["x", "model/dense_1/MatMul/ReadVariableOp:0"], ["a"], "StatefulPartitionedCall/model/dense_1/MatMul"),
        node("Add", ["a", "model/dense_1/BiasAdd/ReadVariableOp:0"], ["b"], "StatefulPartitionedCall/model/dense_1/BiasAdd"),
        node("Relu", ["b"], ["c"], "StatefulPartitionedCall/model/dense_1/Relu"),
        node("MatMul", ["c", "model/dense_2/MatMul/ReadVariableOp:0"], ["d"], "StatefulPartitionedCall/model/dense_2/MatMul"),
        node("Add", ["d", "model/dense_2/BiasAdd/ReadVariableOp:0"], ["y"], "StatefulPartitionedCall/model/dense_2/BiasAdd"),
    ], [("x", ["n", 6])], [("y", ["n", 4])], {
        "model/dense_1/MatMul/ReadVariableOp:0": (6, 8), "model/dense_1/BiasAdd/ReadVariableOp:0": (8,),
        "model/dense_2/MatMul/ReadVariableOp:0": (8, 4), "model/dense_2/BiasAdd/ReadVariableOp:0": (4,),
    })
    # Caffe2: no node names, weights called `module_w_0`; an image classifier that ends in an average and a softmax.
    save("convnet", [
        node("Conv", ["input", "conv1_w_0", "conv1_b_0"], ["conv1_1"], pads=[1, 1, 1, 1]),
        node("Relu", ["conv1_1"], ["conv1_2"]),
        node("Conv", ["conv1_2", "fire2/squeeze_w_0", "fire2/squeeze_b_0"], ["fire2_1"]),
        node("Relu", ["fire2_1"], ["fire2_2"]),
        node("Conv", ["fire2_2", "conv10_w_0", "conv10_b_0"], ["conv10_1"]),
        node("GlobalAveragePool", ["conv10_1"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Softmax", ["flat"], ["probabilities"]),
    ], [("input", ["n", 3, "h", "w"])], [("probabilities", ["n", 5])], {
        "conv1_w_0": (6, 3, 3, 3), "conv1_b_0": (6,), "fire2/squeeze_w_0": (8, 6, 1, 1), "fire2/squeeze_b_0": (8,),
        "conv10_w_0": (5, 8, 1, 1), "conv10_b_0": (5,),
    })
    # No names at all: a written-out norm, a turned weight, one weight used twice, a branch on an input, a transposed convolution.
    branch = lambda name, op: helper.make_graph(
        [node(op, ["h5"], [f"{name}_out"])], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["n", 7, 8])])
    save("anonymous", [
        node("Transpose", ["w0"], ["w0t"], perm=[1, 0]),
        node("MatMul", ["x", "w0t"], ["h0"]),
        node("Add", ["v0", "h0"], ["h1"]),
        node("ReduceMean", ["h1"], ["mean"], axes=[-1]),
        node("Sub", ["h1", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["square"]),
        node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        node("Add", ["variance", "eps"], ["safe"]),
        node("Sqrt", ["safe"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["normal"]),
        node("Mul", ["normal", "v1"], ["scaled"]),
        node("Add", ["scaled", "v2"], ["h2"]),
        node("MatMul", ["h2", "w1"], ["h3"]),
        node("Relu", ["h3"], ["h4"]),
        node("MatMul", ["h4", "w1"], ["h5"]),
        node("If", ["flag"], ["h6"], then_branch=branch("then", "Tanh"), else_branch=branch("else", "Relu")),
        node("MatMul", ["h6", "w2"], ["h7"]),
        node("Unsqueeze", ["h7", "axis"], ["h8"]),
        node("ConvTranspose", ["h8", "w3"], ["y"]),
    ], [("x", ["n", 7, 6]), ("flag", [1], TensorProto.BOOL)], [("y", ["n", 2, 9, 6])], {
        "w0": (8, 6), "v0": (8,), "v1": (8,), "v2": (8,), "w1": (8, 8), "w2": (8, 4), "w3": (1, 2, 3, 3),
    }, [numpy_helper.from_array(np.array(1e-5, np.float32), "eps"), numpy_helper.from_array(np.array([1]), "axis")])
def example(info, seed):
    shape = [dim if isinstance(dim, int) else {"h": 8, "w": 8, "sequence_length": 7}.get(dim, 2) for dim in info.shape]
    random = np.random.default_rng(seed)
    if info.type == "tensor(int64)":
        return np.ones(shape, np.int64) if "mask" in info.name else random.integers(0, 2, shape)
    if info.type == "tensor(bool)":
        return np.ones(shape, bool)
    dtype = np.float16 if "float16" in info.type else np.float32
    return random.standard_normal(shape).round(2).astype(dtype)


def expectations():
    found = {}
    for path in sorted(FOLDER.glob("*.onnx")):
        session = ort.InferenceSession(path)
        feeds = {info.name: example(info, at) for at, info in enumerate(session.get_inputs())}
        [result] = session.run(None, feeds)
        found[path.stem] = {
            "feeds": {name: {"shape": list(x.shape), "data": [float(n) for n in x.astype(np.float64).ravel()]} for name, x in feeds.items()},
            "output": session.get_outputs()[0].name,
            "shape": list(result.shape),
            "data": [round(float(n), 6) for n in result.ravel()],
        }
    (FOLDER / "expected.json").write_text(json.dumps(found))


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    named_by_others()
    float_models()
    quantised_models()
    language_model()
    expectations()


if __name__ == "__main__":
    main()
