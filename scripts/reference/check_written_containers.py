"""Reads what check_written_containers.ts wrote with onnxruntime, gguf and numpy, and compares the values.

    python scripts/reference/check_written_containers.py .cache/containers
"""

import pathlib
import sys

import gguf
import numpy as np
import onnxruntime as ort

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
    print("onnxruntime, gguf and numpy read what was written")


if __name__ == "__main__":
    main()
