"""Reads what check_written_containers.ts wrote with onnxruntime, gguf, mlx-lm and numpy, and compares the values.

    python scripts/reference/check_written_containers.py .cache/containers
"""

import pathlib
import sys

import gguf
import mlx.core as mx
import numpy as np
import onnxruntime as ort
from mlx_lm.models import llama
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import load_file

F32 = ((np.arange(12) - 5) / 4).astype(np.float32).reshape(3, 4)
EXPECTED = {"f32": F32, "f16": F32.astype(np.float16), "i32": np.array([1, -2], dtype=np.int32)}


def same(name, found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, (name, found.dtype, found.shape)
    assert np.array_equal(found, wanted), name


def main():
    folder = pathlib.Path(sys.argv[1])
    adapter = ort.AdapterFormat.read_adapter(str(folder / "a.onnx_adapter"))
    assert (adapter.get_format_version(), adapter.get_adapter_version(), adapter.get_model_version()) == (1, 5, 6)
    parameters = {name: value.numpy() for name, value in adapter.get_parameters().items()}
    for name, wanted in {**EXPECTED, "i64": np.array([7])}.items():
        same(name, parameters[name], wanted)
    ort.LoraAdapter().Load(str(folder / "a.onnx_adapter"))

    reader = gguf.GGUFReader(folder / "a.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, wanted in EXPECTED.items():
        same(name, tensors[name].data, wanted)
    assert np.array_equal(gguf.quants.dequantize(tensors["bf16"].data, tensors["bf16"].tensor_type), F32)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.lora.alpha"].contents() == 16
    assert reader.fields["list"].contents() == [1, 2, 3]

    for file in ["a.npz", "b.npz"]:
        arrays = np.load(folder / file)
        for name, wanted in {**EXPECTED, "i64": np.array(7), "text": np.array(["a", "snow \u2603"])}.items():
            same(name, arrays[name], wanted)
    assert np.load(folder / "b.npz")["f32"].flags.f_contiguous

    model = llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=8, num_hidden_layers=3, intermediate_size=12, num_attention_heads=2,
        num_key_value_heads=1, rms_norm_eps=1e-5, vocab_size=10, tie_word_embeddings=True))
    load_adapters(model, str(folder / "mlx"))
    deltas = load_file("fixtures/adapter-formats/mlx/delta.safetensors")
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "fuse")}
    assert set(adapted) == set(deltas), set(adapted)
    for name, module in adapted.items():
        base = (module.linear if hasattr(module, "linear") else module.embedding).weight
        assert mx.allclose(module.fuse().weight - base, mx.array(deltas[name]), atol=1e-6), name
    print("onnxruntime, gguf, mlx-lm and numpy read what was written")


if __name__ == "__main__":
    main()
