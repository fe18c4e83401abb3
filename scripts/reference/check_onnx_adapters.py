"""Hot-swaps adapters that Tunesmith wrote in plain ONNX Runtime: python check_onnx_adapters.py FOLDER (see check_onnx_adapters.ts)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

folder = Path(sys.argv[1])
told = json.loads((folder / "expected.json").read_text())
ids = np.array([told["ids"]], np.int64)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}


def swapped(session, name):
    """The adapter put in by the run's options: for weights that are optional."""
    options = ort.RunOptions()
    if name != "none":
        adapter = ort.LoraAdapter()
        adapter.Load(str(folder / f"{name}.onnx_adapter"))
        options.add_active_adapter(adapter)
    return session.run(["logits"], feeds, options)[0].ravel()


def fed(session, name):
    """The adapter's tensors as feeds: for weights that are inputs like others."""
    tensors = ort.AdapterFormat.read_adapter(str(folder / f"{name}.onnx_adapter")).get_parameters()
    return session.run(["logits"], {**feeds, **{key: value.numpy() for key, value in tensors.items()}})[0].ravel()


for kind, run, names in (
    ("inputs", fed, ("first", "second", "first")),
    ("optional", swapped, ("none", "first", "second", "first", "none")),
):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / kind / "model.onnx"), options)
    for name in names:
        gap = np.abs(run(session, name) - np.array(told["expected"][name])).max()
        print(f"{kind}: {name}: differs by {gap:.1e}")
        assert gap < 1e-4, (kind, name, gap)
others = {name: np.abs(np.array(told["expected"][name]) - np.array(told["expected"]["none"])).max() for name in ("first", "second")}
assert min(others.values()) > 1e-2, others
