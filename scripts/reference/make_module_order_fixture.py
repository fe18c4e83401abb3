"""Writes src/methods/definition-order.fixture.json: the maps and embeddings of fixture models as named_modules() lists them.

Usage: python scripts/reference/make_module_order_fixture.py   (needs transformers)
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers.pytorch_utils import Conv1D

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["models/llama", "models/gpt2", "text-models/distilbert-classes", "text-models/t5", "text-models/whisper",
          "vision/clip", "vision/resnet"]
KINDS = (torch.nn.Linear, Conv1D, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d)


def modules(name):
    config = transformers.AutoConfig.from_pretrained(ROOT / "fixtures" / name)
    model = getattr(transformers, config.architectures[0])(config)
    return [path for path, module in model.named_modules() if isinstance(module, KINDS)]


table = {name: modules(name) for name in MODELS}
out = ROOT / "src/methods/definition-order.fixture.json"
out.write_text(json.dumps({"transformers": transformers.__version__, "modules": table}) + "\n")
