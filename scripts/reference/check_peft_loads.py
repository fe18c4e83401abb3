"""Loads adapter folders with PEFT and reports what it made of them.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/python scripts/reference/check_peft_loads.py BASE_FOLDER ADAPTER_FOLDER INPUT.safetensors
        [--output FILE] [--tolerance 1e-5]
    .cache/reference/bin/python scripts/reference/check_peft_loads.py --jobs FILE.json

INPUT.safetensors holds `input_ids` [batch, length] int64 (optionally attention_mask, position_ids), or `pixel_values` for
networks of images, and may hold `logits` to compare with. FILE.json is a list of {base, adapter, input, tolerance} and, if wanted,
{mayMiss}, a regular expression of tensors that PEFT may miss. The model runs in float32, eager attention, eval mode. Prints one JSON object a folder, on a line:

  missing      adapter tensors PEFT expected and did not find
  unexpected   tensors of the file PEFT did not use
  logits       path of a safetensors file with `logits` and, where PEFT merges, `merged_logits` (one folder only)
  maxChange    largest difference from the base model's logits (0 means the adapter did nothing)
  maxMergedDifference (where PEFT merges), maxDifference (with `logits` in the input)
  error        what PEFT said where it did not load the folder
  ok           nothing missing, nothing unexpected, a change above the tolerance, and maxDifference within it

Exit code 0 when all are ok, 1 otherwise.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
START = Path.cwd()

import torch
from make_peft_fixtures import given as rows_of, mergeable, with_biases  # Changes to the repository's folder.
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel
from peft.tuners.lora import ArrowConfig, create_arrow_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageClassification


def base_for(folder, feeds):
    kind = AutoModelForImageClassification if "pixel_values" in feeds else AutoModelForCausalLM
    attends = "num_attention_heads" in AutoConfig.from_pretrained(folder).to_dict() or kind is AutoModelForCausalLM
    eager = dict(attn_implementation="eager") if attends else {}
    return kind.from_pretrained(folder, dtype=torch.float32, **eager).eval()


def with_experts(base, folder):
    """X-LoRA, whose experts lie below its folder; what of its file the model does not hold."""
    base.config.use_cache = False
    experts = {path.name: str(path) for path in sorted(Path(folder).iterdir()) if path.is_dir()}
    model = PeftModel.from_pretrained(base, folder, adapters=experts)
    held = model.state_dict()
    stored = load_file(f"{folder}/adapter_model.safetensors")
    unused = [key for key, value in stored.items()
              if not any(name.endswith(key.removeprefix("base_model.")) and torch.equal(other, value)
                         for name, other in held.items())]
    return model, [], unused


def with_routes(base, folder, config):
    """Arrow, whose experts lie below its folder (PEFT forgets their names); the router's tensors that are missing, or too many."""
    named = lambda pattern: [str(path) for path in sorted(Path(folder).glob(pattern))]
    own = ArrowConfig(top_k=config.top_k, router_temperature=config.router_temperature, use_gks=config.use_gks,
                      rng_seed=config.rng_seed)
    model = create_arrow_model(base, named("task_*"), own, named("gks_*") or None)
    held = {key.replace(".arrow_router", "") for key in model.state_dict() if "arrow_router.weight" in key}
    stored = set(load_file(f"{folder}/adapter_model.safetensors"))
    return model, sorted(held - stored), sorted(stored - held)


def loaded(base, folder):
    """The two steps of PeftModel.from_pretrained, which only warns about missing tensors."""
    config = PeftConfig.from_pretrained(folder)
    if config.peft_type == "XLORA":
        return with_experts(base, folder)
    if getattr(config, "arrow_config", None):
        return with_routes(base, folder, config.arrow_config)
    model_class = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
    model = model_class(base, config, "default")
    result = model.load_adapter(folder, "default")
    return model, list(result.missing_keys), list(result.unexpected_keys)


def check(base, adapter, input, tolerance, output=None, mayMiss=None):
    stored = load_file(input)
    feeds = {key: stored[key] for key in ("input_ids", "attention_mask", "position_ids", "pixel_values") if key in stored}
    before_model = base_for(base, feeds)
    with torch.no_grad():
        before = before_model(**feeds).logits
    model, missing, unexpected = loaded(before_model, adapter)
    missing = [name for name in missing if not (mayMiss and re.search(mayMiss, name))]
    model.eval()
    if "input_ids" in feeds:
        feeds |= rows_of(model, feeds["input_ids"])
    merges = mergeable(model)
    results = {}
    with torch.no_grad():
        results["logits"] = model(**feeds).logits
        if merges:
            with_biases(model)
            results["merged_logits"] = model.merge_and_unload()(**feeds).logits
    report = dict(missing=missing, unexpected=unexpected)
    report["maxChange"] = (results["logits"] - before).abs().max().item()
    if merges:
        report["maxMergedDifference"] = (results["merged_logits"] - results["logits"]).abs().max().item()
    ok = not missing and not unexpected and report["maxChange"] > tolerance
    if "logits" in stored:
        report["maxDifference"] = (results["logits"] - stored["logits"]).abs().max().item()
        ok = ok and report["maxDifference"] <= tolerance
    if output:
        save_file({key: value.contiguous() for key, value in results.items()}, output)
        report["logits"] = output
    return dict(report, ok=ok)


def tried(job):
    try:
        return check(**job)
    except Exception as error:  # Whatever PEFT raises is what this is to find out.
        return dict(missing=[], unexpected=[], error=f"{type(error).__name__}: {error}", ok=False)


def main():
    parser = argparse.ArgumentParser(description="load adapter folders with PEFT")
    parser.add_argument("base", nargs="?")
    parser.add_argument("adapter", nargs="?")
    parser.add_argument("input", nargs="?")
    parser.add_argument("--output")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--jobs")
    options = parser.parse_args()
    whole = lambda path: str(START / path)
    if options.jobs:
        reports = map(tried, json.loads(Path(whole(options.jobs)).read_text()))
    elif options.input:
        output = whole(options.output) if options.output else os.path.join(tempfile.mkdtemp(prefix="peft-logits-"),
                                                                           "logits.safetensors")
        reports = [check(whole(options.base), whole(options.adapter), whole(options.input), options.tolerance, output)]
    else:
        parser.error("BASE_FOLDER ADAPTER_FOLDER INPUT.safetensors, or --jobs FILE.json")
    ok = True
    for report in reports:
        print(json.dumps(report), flush=True)
        ok = ok and report["ok"]
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
