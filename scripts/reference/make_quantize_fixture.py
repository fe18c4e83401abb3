"""Weights in 8 and 4 bits by bitsandbytes and ONNX Runtime, for src/tensor/quantize: fixtures/quantize/codecs.json.

    python scripts/reference/make_quantize_fixture.py
"""

import json
from pathlib import Path

import bitsandbytes
import bitsandbytes.functional as F
import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import _pybind_state as kernels

rng = np.random.default_rng(7)
floats = lambda a: [float(x) for x in np.asarray(a, dtype=np.float32).ravel()]
ints = lambda a: [int(x) for x in np.asarray(a).ravel()]


def nf4():
    weight = rng.standard_normal((24, 96)).astype(np.float32) * 0.02
    weight[3] = 0
    codes, state = F.quantize_4bit(torch.tensor(weight), blocksize=64, quant_type="nf4", compress_statistics=False)
    restored = F.dequantize_4bit(codes, state)
    return {
        "shape": list(weight.shape), "weight": floats(weight), "book": floats(state.code), "codes": ints(codes),
        "maxima": floats(state.absmax), "restored": floats(restored),
    }


def double():
    weight = torch.tensor(rng.standard_normal((128, 192)).astype(np.float32)) * torch.linspace(0.01, 0.2, 128)[:, None]
    _, plain = F.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    _, state = F.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    maxima = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return {
        "maxima": floats(plain.absmax), "codes": ints(state.absmax), "scales": floats(state.state2.absmax),
        "offset": float(state.offset), "restored": floats(maxima), "map": floats(state.state2.code),
    }


def int4(symmetric, columns, block):
    rows = 5
    weight = rng.standard_normal((rows, columns)).astype(np.float32) * 0.1
    blocks = (columns + block - 1) // block
    codes = np.zeros((rows, blocks, block // 2), dtype=np.uint8)
    scales = np.zeros(rows * blocks, dtype=np.float32)
    zeros = np.zeros(rows * ((blocks + 1) // 2), dtype=np.uint8)
    kernels.quantize_matmul_4bits(codes, weight.T.copy(), scales, zeros, block, rows, columns, symmetric)
    return {
        "rows": rows, "columns": columns, "blockSize": block, "symmetric": symmetric, "weight": floats(weight),
        "codes": ints(codes), "scales": floats(scales), "zeros": ints(zeros),
    }


result = {
    "versions": {"bitsandbytes": bitsandbytes.__version__, "onnxruntime": onnxruntime.__version__},
    "nf4": nf4(),
    "double": double(),
    "int4": [int4(True, 64, 32), int4(False, 64, 32), int4(False, 48, 16), int4(True, 40, 32)],
}
path = Path(__file__).resolve().parents[2] / "fixtures/quantize/codecs.json"
path.write_text(json.dumps(result) + "\n")
