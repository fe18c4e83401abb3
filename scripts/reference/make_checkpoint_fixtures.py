"""Writes fixtures/checkpoints/: small files of every container format that is read, by the library that defines it, and
expected.json with their values as numbers.

- zip.pth, legacy.pth: torch.save in both formats: every number format, views with strides, shared storages, scalars,
  an empty tensor, parameters, wrappers, numpy numbers and arrays
- deflated.pth: zip.pth's content with compressed entries
- malicious.pth: a pickle that would run a command; module.pth: a whole model
- protocol{0..4}.pkl: one object in each pickle protocol
- arrays.npz, compressed.npz, fortran.npy: numpy.savez, savez_compressed, save of an array in Fortran order
- quants.gguf: the gguf package's writer; its own dequantisation gives quants.safetensors
- adapter.onnx_adapter: onnxruntime.AdapterFormat

    python scripts/reference/make_checkpoint_fixtures.py
"""

import collections
import io
import json
import math
import os
import pathlib
import pickle
import zipfile

import gguf
import numpy as np
import onnxruntime as ort
import torch
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
rng = np.random.default_rng(0)


def numbers(values):
    flat = np.asarray(values).ravel()
    if flat.dtype.kind == "U" or flat.dtype.kind == "S":
        return [v if isinstance(v, str) else v.decode() for v in flat.tolist()]
    flat = flat.astype(np.float64).tolist()
    return [v if math.isfinite(v) else str(v) for v in flat]


def described(tensors):
    return [
        {"name": name, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape),
         "values": numbers(t.detach().to(torch.float64).numpy() if isinstance(t, torch.Tensor) else t)}
        for name, t in tensors.items()
    ]


def state_dict():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return collections.OrderedDict({
        "module.f32": base,
        "module.transposed": base.t(),
        "module.rows": base[1:3],
        "module.steps": base[:, ::2],
        "module.expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "module.f64": torch.tensor([[math.pi], [-1e300]], dtype=torch.float64),
        "module.f16": base.to(torch.float16),
        "module.bf16": base.to(torch.bfloat16),
        "module.i64": torch.tensor([-1, 2**40]),
        "module.i32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
        "module.i16": torch.tensor([-(2**15), 7], dtype=torch.int16),
        "module.i8": torch.tensor([-128, 127], dtype=torch.int8),
        "module.u8": torch.tensor([0, 255], dtype=torch.uint8),
        "module.bool": torch.tensor([True, False, True]),
        "module.scalar": torch.tensor(2.5),
        "module.empty": torch.zeros(0, 3),
        "module.parameter": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)),
    })


def torch_files(expected):
    state = state_dict()
    checkpoint = {
        "epoch": 3,
        "best": torch.tensor(91.5),
        "state_dict": state,
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "numpy": np.float64(0.25),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "huge": 2**80,
        "flags": [True, None, b"ab", "text \u2603"],
    }
    expected["state_dict"] = described({k.removeprefix("module."): v for k, v in state.items()})
    torch.save(checkpoint, OUT / "zip.pth")
    torch.save(checkpoint, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(OUT / "zip.pth") as source, zipfile.ZipFile(OUT / "deflated.pth", "w") as target:
        for info in source.infolist():
            target.writestr(zipfile.ZipInfo(info.filename), source.read(info), zipfile.ZIP_DEFLATED)
    unsigned = {"u16": torch.tensor([65535], dtype=torch.uint16), "u64": torch.tensor([1], dtype=torch.uint64)}
    torch.save(unsigned, OUT / "unsigned.pth")

    class Malicious:
        def __reduce__(self):
            return os.system, ("false",)

    torch.save({"weight": torch.ones(2), "x": Malicious()}, OUT / "malicious.pth")
    torch.save(torch.nn.Linear(2, 2), OUT / "module.pth")
    value = {"a": [1, -2, 300, 70000, 2**40, -(2**70)], "b": (0.5, -1e300), "c": {"nested": {"x": None}}, "d": "\u2603",
             "e": True, "f": {1, 2}}
    for protocol in range(5):
        (OUT / f"protocol{protocol}.pkl").write_bytes(pickle.dumps(value, protocol=protocol))


def numpy_files(expected):
    arrays = {
        "f4": rng.standard_normal((3, 4)).astype(np.float32),
        "f8": rng.standard_normal(5),
        "f2": rng.standard_normal((2, 2)).astype(np.float16),
        "i8": np.array([-1, 2**40]),
        "u1": np.arange(4, dtype=np.uint8),
        "u4": np.array([2**32 - 1], dtype=np.uint32),
        "bool": np.array([[True], [False]]),
        "fortran": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        "big": np.array([1.5, -2.5], dtype=">f4"),
        "text": np.array(["one", "two \u2603", ""]),
        "bytes": np.array([b"ab", b"c"]),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 2), dtype=np.float32),
    }
    expected["arrays"] = described(arrays)
    np.savez(OUT / "arrays.npz", **arrays)
    np.savez_compressed(OUT / "compressed.npz", objects=np.array([{}, 1], dtype=object), **arrays)
    np.save(OUT / "fortran.npy", arrays["fortran"])


def gguf_files():
    writer = gguf.GGUFWriter(OUT / "quants.gguf", "llama")
    writer.add_string("test.text", "snow \u2603")
    writer.add_bool("test.bool", True)
    writer.add_int64("test.i64", -(2**40))
    writer.add_uint64("test.u64", 2**60)
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_int8("test.i8", -3)
    writer.add_array("test.ints", [1, 2, 3])
    writer.add_array("test.texts", ["a", "\u2603"])
    tensors = {}
    base = rng.standard_normal((2, 256)).astype(np.float32)
    types = gguf.GGMLQuantizationType
    for name, data in [("f32", base), ("f16", base.astype(np.float16))]:
        writer.add_tensor(name, data)
        tensors[name] = data.astype(np.float32)
    for kind in [types.BF16, types.Q8_0, types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1]:
        raw = gguf.quants.quantize(base, kind)
        name = kind.name.lower()
        writer.add_tensor(name, raw, raw_dtype=kind)
        tensors[name] = gguf.quants.dequantize(raw, kind)
    # The K types cannot be quantised by the package: random bytes with sane half-precision scales instead.
    for kind, scales in [(types.Q4_K, (0, 2)), (types.Q5_K, (0, 2)), (types.Q6_K, (208,)), (types.Q2_K, (80, 82)),
                         (types.Q3_K, (108,))]:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        raw = rng.integers(0, 256, (2, 1, size), dtype=np.uint8)
        for at in scales:
            raw[:, :, at:at + 2] = (rng.standard_normal((2, 1, 1)) * 0.01).astype(np.float16).view(np.uint8)
        raw = raw.reshape(2, size)
        name = kind.name.lower()
        writer.add_tensor(name, raw, raw_dtype=kind)
        tensors[name] = gguf.quants.dequantize(raw, kind)
    writer.add_tensor("i32", np.array([1, -2], dtype=np.int32))
    tensors["i32"] = np.array([1, -2], dtype=np.int32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, OUT / "quants.safetensors")


def onnx_adapter(expected):
    parameters = {
        "layer.0.lora_A": rng.standard_normal((2, 4)).astype(np.float32),
        "layer.0.lora_B": rng.standard_normal((4, 2)).astype(np.float16),
        "steps": np.array([1, 2, 3], dtype=np.int64),
    }
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(7)
    adapter.set_model_version(3)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in parameters.items()})
    adapter.export_adapter(str(OUT / "adapter.onnx_adapter"))
    expected["onnx_adapter"] = described(parameters)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {}
    torch_files(expected)
    numpy_files(expected)
    gguf_files()
    onnx_adapter(expected)
    (OUT / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
