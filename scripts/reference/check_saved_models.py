"""Loads model folders that this library wrote with transformers, by the class their config names, and compares outputs.

    .cache/reference/bin/python scripts/reference/check_saved_models.py FOLDER ...

Each folder holds `expected.safetensors` with `input.NAME` and `output.NAME`. Prints one line per folder; exit code 1 when a
tensor is missing or left over (a pooler that the class makes afresh, and counters, may be missing), or a difference is above 1e-4.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

FRESH = ("pooler.", "num_batches_tracked")


def check(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = getattr(transformers, config.architectures[0])
    model, info = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    tensors = load_file(Path(folder) / "expected.safetensors")
    given = {name[6:]: value for name, value in tensors.items() if name.startswith("input.")}
    with torch.no_grad():
        output = model.eval()(**given)
    names = {name[7:]: value for name, value in tensors.items() if name.startswith("output.")}
    shared = [name for name in names if output.get(name) is not None and name != "pooler_output"]
    difference = max((output[name] - names[name]).abs().max().item() for name in shared)
    missing = [name for name in info["missing_keys"] if not any(part in name for part in FRESH)]
    extra = list(info["unexpected_keys"]) + [str(key) for key in info.get("mismatched_keys", [])]
    fine = not missing and not extra and difference < 1e-4
    print(f"{'ok  ' if fine else 'FAIL'} {Path(folder).name}: {cls.__name__}, {', '.join(shared)} within {difference:.1e}"
          + (f", missing {missing}, left over {extra}" if missing or extra else ""))
    return fine


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
