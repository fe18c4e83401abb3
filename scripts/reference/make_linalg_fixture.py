"""Writes src/runtime/linalg/linalg.fixture.json: small problems with NumPy's and PyTorch's answers.

Usage: python scripts/reference/make_linalg_fixture.py   (needs numpy and torch)
"""

import json
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "src/runtime/linalg/linalg.fixture.json"
rng = np.random.default_rng(1)


def rounded(*shape: int) -> np.ndarray:
    """Short decimals, so that the file stays small and readable."""
    return np.round(rng.normal(size=shape), 3)


def svd_case(a: np.ndarray) -> dict:
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    for k in range(len(s)):
        sign = np.sign(u[np.argmax(np.abs(u[:, k])), k])
        u[:, k] *= sign
        vt[k] *= sign
    return {"a": a.tolist(), "u": u.tolist(), "s": s.tolist(), "vt": vt.tolist()}


def qr_case(a: np.ndarray) -> dict:
    q, r = np.linalg.qr(a)
    signs = np.sign(np.diag(r))
    return {"a": a.tolist(), "q": (q * signs).tolist(), "r": (r.T * signs).T.tolist()}


def sinkhorn_case(cost: np.ndarray, eps: float) -> dict:
    m, n = cost.shape
    kernel = np.exp(-cost / eps)
    u = np.ones(m)
    for _ in range(2000):
        v = (1 / n) / (kernel.T @ u)
        u = (1 / m) / (kernel @ v)
    return {"cost": cost.tolist(), "regularisation": eps, "plan": (u[:, None] * kernel * v).tolist()}


def rbf(a: np.ndarray, k: int) -> np.ndarray:
    d = np.linalg.norm(a[:, None] - a[None], axis=-1)
    sigma = np.sort(d, axis=1)[:, min(k, len(a)) - 1].mean()
    return np.exp(-(d**2) / (2 * sigma**2))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    h = np.eye(len(x)) - 1 / len(x)
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


square = rounded(4, 4)
symmetric = square + square.T
tall, wide = rounded(6, 3), rounded(3, 5)
deficient = np.outer(rounded(4), rounded(3))
values, _ = np.linalg.eigh(symmetric)
permutation, lower, upper = torch.linalg.lu(torch.tensor(square))
target = rounded(6, 2)
signal = rounded(2, 7)
grid = rounded(3, 4)
left, right = rounded(5, 3), rounded(5, 8)

OUT.write_text(
    json.dumps(
        {
            "svd": [svd_case(tall), svd_case(wide)],
            "qr": qr_case(tall),
            "eigen": {"a": symmetric.tolist(), "values": values[::-1].tolist()},
            "lu": {
                "a": square.tolist(),
                "permutation": permutation.numpy().argmax(axis=0).tolist(),
                "l": lower.tolist(),
                "u": upper.tolist(),
            },
            "cholesky": {"a": (tall.T @ tall).tolist(), "l": np.linalg.cholesky(tall.T @ tall).tolist()},
            "inverse": np.linalg.inv(square).tolist(),
            "pinv": [
                {"a": x.tolist(), "p": np.linalg.pinv(x, rcond=1e-12).tolist()} for x in (tall, wide, deficient)
            ],
            "leastSquares": {
                "a": tall.tolist(),
                "b": target.tolist(),
                "x": np.linalg.lstsq(tall, target, rcond=None)[0].tolist(),
            },
            "expm": [
                {"a": x.tolist(), "e": torch.linalg.matrix_exp(torch.tensor(x)).tolist()} for x in (square, square * 6)
            ],
            "fft": {
                "re": signal[0].tolist(),
                "im": signal[1].tolist(),
                "outRe": np.fft.fft(signal[0] + 1j * signal[1]).real.tolist(),
                "outIm": np.fft.fft(signal[0] + 1j * signal[1]).imag.tolist(),
            },
            "fft2": {
                "a": grid.tolist(),
                "forwardRe": np.fft.fft2(grid).real.tolist(),
                "forwardIm": np.fft.fft2(grid).imag.tolist(),
                "inverseRe": np.fft.ifft2(grid).real.tolist(),
                "inverseIm": np.fft.ifft2(grid).imag.tolist(),
            },
            "kron": {"a": grid.tolist(), "b": target.tolist(), "k": np.kron(grid, target).tolist()},
            "sinkhorn": sinkhorn_case(np.abs(grid), 0.464),
            "rbf": {"a": left.tolist(), "k": 3, "w": rbf(left, 3).tolist()},
            "cka": {"x": left.tolist(), "y": right.tolist(), "value": cka(left, right)},
        }
    )
    + "\n"
)
