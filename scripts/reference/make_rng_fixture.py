"""Writes src/runtime/random/mt19937.fixture.json: sequences of PyTorch's CPU generator, to compare ours with.

Usage: python scripts/reference/make_rng_fixture.py   (needs torch)
"""

import json
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parents[2] / "src/runtime/random/mt19937.fixture.json"


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def case(seed: int) -> dict:
    long_perm = torch.randperm(3000, generator=generator(seed))
    mixed = generator(seed)
    return {
        "seed": seed,
        "randperm10": torch.randperm(10, generator=generator(seed)).tolist(),
        "randperm3000Head": long_perm[:20].tolist(),
        "randperm3000Tail": long_perm[-5:].tolist(),
        "randint": torch.randint(-3, 1000, (12,), generator=generator(seed)).tolist(),
        "uniform": torch.empty(9).uniform_(-0.25, 0.75, generator=generator(seed)).tolist(),
        "normal7": torch.randn(7, generator=generator(seed)).tolist(),
        "normal16": torch.randn(16, generator=generator(seed)).tolist(),
        "normal37": torch.randn(37, generator=generator(seed)).tolist(),
        # The state must be left where PyTorch leaves it, also by the redrawn last block.
        "mixed": [
            torch.randn(21, generator=mixed)[-3:].tolist(),
            torch.randperm(5, generator=mixed).tolist(),
            torch.randn(2, generator=mixed).tolist(),
            torch.rand(3, generator=mixed).tolist(),
        ],
    }


OUT.write_text(json.dumps({"torch": torch.__version__.split("+")[0], "cases": [case(s) for s in (0, 777, 4294967295)]}) + "\n")
