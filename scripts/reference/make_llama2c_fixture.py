"""Tiny random llama2.c checkpoints, and the logits that llama2.c's own arithmetic gives for them.

    .cache/reference/bin/python scripts/reference/make_llama2c_fixture.py

Writes fixtures/llama2c/: legacy.bin (seven integers, tied head), untied.bin (legacy, negative vocabulary size),
version1.bin (`ak42`); expected.safetensors holds ids [9] int64 and logits [9,V] per file.

The forward pass is run.c's, in numpy float64: one position at a time, RMSNorm with 1e-5, rotation of neighbouring
pairs, grouped queries, SwiGLU.
"""

import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2] / "fixtures" / "llama2c"
DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, LENGTH = 16, 24, 2, 4, 2, 40, 12
HEAD = DIM // HEADS
KV = HEAD * KV_HEADS


def make_weights(rng, tied):
    normal = lambda *shape: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    scale = lambda *shape: (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32)
    weights = dict(
        embedding=normal(VOCAB, DIM) * 2, rms_att=scale(LAYERS, DIM), wq=normal(LAYERS, DIM, DIM) * 2,
        wk=normal(LAYERS, KV, DIM) * 2, wv=normal(LAYERS, KV, DIM), wo=normal(LAYERS, DIM, DIM),
        rms_ffn=scale(LAYERS, DIM), w1=normal(LAYERS, HIDDEN, DIM), w2=normal(LAYERS, DIM, HIDDEN),
        w3=normal(LAYERS, HIDDEN, DIM), rms_final=scale(DIM))
    weights["head"] = weights["embedding"] if tied else normal(VOCAB, DIM) * 2
    return weights


def write(path, weights, tied, version):
    sizes = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB if tied or version else -VOCAB, LENGTH)
    if version == 0:
        order = ["embedding", "rms_att", "wq", "wk", "wv", "wo", "rms_ffn", "w1", "w2", "w3", "rms_final"]
        angles = np.outer(np.arange(LENGTH), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)).astype(np.float32)
        tail = [np.cos(angles), np.sin(angles)] + ([] if tied else [weights["head"]])
        header = sizes
    else:
        order = ["rms_att", "rms_ffn", "rms_final", "embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
        tail = [] if tied else [weights["head"]]
        header = (struct.pack("<Ii", 0x616B3432, 1) + sizes + struct.pack("<B", tied)).ljust(256, b"\0")
    body = b"".join(array.astype("<f4").tobytes() for array in [weights[name] for name in order] + tail)
    path.write_bytes(header + body)


def rms_norm(x, weight):
    return weight * x / np.sqrt(np.mean(x * x) + 1e-5)


def rotate(vector, position):
    out = vector.copy()
    for i in range(0, vector.size, 2):
        angle = position * 10000.0 ** (-(i % HEAD) / HEAD)
        cos, sin = np.cos(angle), np.sin(angle)
        out[i], out[i + 1] = vector[i] * cos - vector[i + 1] * sin, vector[i] * sin + vector[i + 1] * cos
    return out


def forward(weights, ids):
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    keys, values, logits = np.zeros((LAYERS, len(ids), KV)), np.zeros((LAYERS, len(ids), KV)), []
    for position, token in enumerate(ids):
        x = w["embedding"][token].copy()
        for layer in range(LAYERS):
            h = rms_norm(x, w["rms_att"][layer])
            query = rotate(w["wq"][layer] @ h, position)
            keys[layer, position] = rotate(w["wk"][layer] @ h, position)
            values[layer, position] = w["wv"][layer] @ h
            mixed = np.zeros(DIM)
            for head in range(HEADS):
                own = slice(head * HEAD, (head + 1) * HEAD)
                shared = slice(head // (HEADS // KV_HEADS) * HEAD, (head // (HEADS // KV_HEADS) + 1) * HEAD)
                scores = keys[layer, : position + 1, shared] @ query[own] / np.sqrt(HEAD)
                weight = np.exp(scores - scores.max())
                mixed[own] = weight / weight.sum() @ values[layer, : position + 1, shared]
            x = x + w["wo"][layer] @ mixed
            h = rms_norm(x, w["rms_ffn"][layer])
            gate = w["w1"][layer] @ h
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ h))
        logits.append(w["head"] @ rms_norm(x, w["rms_final"]))
    return np.array(logits, dtype=np.float32)


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    expected = {}
    for name, tied, version in [("legacy", True, 0), ("untied", False, 0), ("version1", False, 1)]:
        weights = make_weights(rng, tied)
        write(ROOT / f"{name}.bin", weights, tied, version)
        ids = rng.integers(0, VOCAB, 9)
        expected[f"{name}.ids"] = ids.astype(np.int64)
        expected[f"{name}.logits"] = forward(weights, ids)
        print(name, (ROOT / f"{name}.bin").stat().st_size, expected[f"{name}.logits"].std())
    save_file(expected, ROOT / "expected.safetensors")
