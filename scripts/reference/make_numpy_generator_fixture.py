"""Writes src/runtime/random/numpy-generator.fixture.json: sequences of NumPy's default generator, to compare ours with.

Usage: python scripts/reference/make_numpy_rng_fixture.py   (needs numpy)
"""

import hashlib
import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "src/runtime/random/numpy-generator.fixture.json"


def digest(values) -> str:
    return hashlib.sha256(np.asarray(values, dtype="<i4").tobytes()).hexdigest()


def case(seed: int) -> dict:
    bits = np.random.default_rng(seed).bit_generator
    shuffled = {}
    for n in (1, 2, 10, 70_000):
        values = np.arange(n)
        np.random.default_rng(seed).shuffle(values)
        shuffled[n] = values.tolist() if n <= 10 else digest(values)
    chosen = {}
    for n, count in ((5, 0), (5, 5), (256, 17), (9000, 8000), (20_000, 5000), (20_000, 20_000), (20_000, 300)):
        chosen[f"{n},{count}"] = digest(np.random.default_rng(seed).choice(n, size=count, replace=False))
    # A state with half a word left over is carried from one call to the next.
    generator = np.random.default_rng(seed)
    mixed = generator.choice(256, size=17, replace=False).tolist()
    values = np.arange(300)
    generator.shuffle(values)
    return {
        "seed": seed,
        "u64": [str(int(word)) for word in bits.random_raw(6)],
        "shuffle": shuffled,
        "choice": chosen,
        "mixed": [mixed, digest(values)],
    }


seeds = (0, 42, 4294967295)
OUT.write_text(json.dumps({"numpy": np.__version__, "cases": [case(seed) for seed in seeds]}) + "\n")
