"""Loads an adapter folder with PEFT and reports what it made of it.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/python scripts/reference/check_peft_loads.py BASE_FOLDER ADAPTER_FOLDER INPUT.safetensors
        [--output FILE] [--tolerance 1e-5]

INPUT.safetensors holds `input_ids` [batch, length] int64 (optionally attention_mask, position_ids), or `pixel_values` for
networks of images, and may hold `logits` to compare with. The model runs in float32, eager attention, eval mode. Prints one JSON
object:

  missing      adapter tensors PEFT expected and did not find
  unexpected   tensors of the file PEFT did not use
  logits       path of a safetensors file with `logits` and `merged_logits`
  maxChange    largest difference from the base model's logits (0 means the adapter did nothing)
  maxMergedDifference, maxDifference (only with `logits` in the input)
  ok           nothing missing, nothing unexpected, a non-zero change, and maxDifference within the tolerance

Exit code 0 when ok, 1 otherwise.
"""

import argparse
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageClassification


def main():
    parser = argparse.ArgumentParser(description="load an adapter folder with PEFT")
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("input")
    parser.add_argument("--output")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()

    given = load_file(options.input)
    feeds = {key: given[key] for key in ("input_ids", "attention_mask", "position_ids", "pixel_values") if key in given}
    kind = AutoModelForImageClassification if "pixel_values" in feeds else AutoModelForCausalLM
    attends = "num_attention_heads" in AutoConfig.from_pretrained(options.base).to_dict() or kind is AutoModelForCausalLM
    eager = dict(attn_implementation="eager") if attends else {}
    base = kind.from_pretrained(options.base, dtype=torch.float32, **eager).eval()
    with torch.no_grad():
        before = base(**feeds).logits

    # The two steps of PeftModel.from_pretrained, which only warns about missing tensors.
    config = PeftConfig.from_pretrained(options.adapter)
    model_class = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
    model = model_class(base, config, "default")
    loaded = model.load_adapter(options.adapter, "default")
    model.eval()
    with torch.no_grad():
        logits = model(**feeds).logits
        merged = model.merge_and_unload()(**feeds).logits

    output = options.output or os.path.join(tempfile.mkdtemp(prefix="peft-logits-"), "logits.safetensors")
    save_file({"logits": logits.contiguous(), "merged_logits": merged.contiguous()}, output)
    report = dict(missing=list(loaded.missing_keys), unexpected=list(loaded.unexpected_keys), logits=output,
                  maxChange=(logits - before).abs().max().item(),
                  maxMergedDifference=(merged - logits).abs().max().item())
    ok = not report["missing"] and not report["unexpected"] and report["maxChange"] > 0
    if "logits" in given:
        report["maxDifference"] = (logits - given["logits"]).abs().max().item()
        ok = ok and report["maxDifference"] <= options.tolerance
    report["ok"] = ok
    print(json.dumps(report))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
