"""Writes fixtures/safetensors/reference.safetensors with the reference library (every dtype that it and the
project share, awkward shapes and names, half-type corner cases), and reference.json with the values as numbers.

    python scripts/reference/make_safetensors_fixture.py
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "safetensors"

CORNERS = [0.0, -0.0, 1.0, -1.5, 0.1, 1 / 3, 65504.0, 65519.99, 65520.0, 1e-8, 2.0**-24, 2.0**-25, 3 * 2.0**-25,
           2.0**-14, 2.0**-14 - 2.0**-25, 1.0009765625, 1.00146484375, 3.3e38, 3.4028235e38, 1e-40,
           math.inf, -math.inf, math.nan]


def numbers(tensor):
    values = tensor.to(torch.float64).flatten().tolist()
    return [v if math.isfinite(v) else str(v) for v in values]


def main():
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor(CORNERS, dtype=torch.float32)
    noise = torch.randn(64, generator=generator) * torch.exp(8 * torch.randn(64, generator=generator))
    tensors = {
        "corners.f32": corners,
        "corners.f16": corners.to(torch.float16),
        "corners.bf16": corners.to(torch.bfloat16),
        "noise.f32": noise.reshape(4, 16),
        "noise.f16": noise.reshape(4, 16).to(torch.float16),
        "noise.bf16": noise.reshape(4, 16).to(torch.bfloat16),
        "f64": torch.tensor([[math.pi], [-1e300]], dtype=torch.float64),
        "i64": torch.tensor([0, -1, 2**40, -(2**40) - 1, 2**53 - 1], dtype=torch.int64),
        "i32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
        "i16": torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16),
        "i8": torch.tensor([-128, 127, 1], dtype=torch.int8),
        "u8": torch.tensor([0, 255, 7], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "__proto__": torch.tensor([1.0]),
        "snow\u2603\U0001f600.\uffee\"quoted\"": torch.tensor([2.0]),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / "reference.safetensors", metadata={"format": "pt"})
    values = [
        {"name": name, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "values": numbers(t)}
        for name, t in tensors.items()
    ]
    (OUT / "reference.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
