"""Which modules PEFT adapts, for a table of target, exclude and layer settings.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/python scripts/reference/make_target_table.py

Writes fixtures/peft/targets.json:

  models   name -> [{path, kind}] of every module in definition order; kind is Linear, Conv1D, Embedding, Conv2d or other
  cases    [{model, config, matched}] or [{model, config, error}]: `config` holds LoraConfig keys as in
           adapter_config.json, `matched` the adapted module paths in definition order, `error` what PEFT says
           (first sentence) when nothing matches or a matched module cannot be adapted

`moe` is a plain torch module with nested indices (experts inside layers) and two stacks of layers.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
os.chdir(ROOT)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Linear(4, 4), nn.Linear(4, 4)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "to_out": nn.Sequential(nn.Linear(4, 4), nn.ReLU())})
        self.experts = nn.ModuleList([Expert(), Expert()])
        self.norm = nn.LayerNorm(4)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.stem = nn.Conv2d(3, 4, 3)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([Layer() for _ in range(3)])})
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList([Layer() for _ in range(2)])})
        self.layers = nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(4, 4)}) for _ in range(2)])
        self.q_proj = nn.Linear(4, 4)
        self.sub_q_proj = nn.Linear(4, 4)


def targets(*names, **rest):
    return dict(target_modules=list(names), **rest)


CASES = {
    "gpt2": [
        targets("c_attn"), targets("c_proj"), targets("attn.c_proj"), targets("attn"), targets("proj"),
        targets("transformer.h.0.attn.c_attn"), targets("h.1.mlp.c_fc", "c_attn"), targets("wte"), targets("wte", "wpe"),
        targets("lm_head"), targets("ln_1"), targets("c_attn", "missing"), targets("missing"),
        dict(target_modules="c_attn"), dict(target_modules=".*c_attn"), dict(target_modules=r".*\.mlp\.c_(fc|proj)"),
        dict(target_modules=r"transformer\.h\.\d+\.attn\.c_.*"), dict(target_modules=r".*(?<!mlp)\.c_proj"),
        dict(target_modules=r".*\.h\.(?!0\.).*c_fc"), dict(target_modules="all-linear"),
        dict(target_modules="All-Linear", exclude_modules=["c_proj"]),
        dict(target_modules="all-linear", exclude_modules=r".*\.1\..*"),
        targets("c_attn", "c_proj", exclude_modules=["mlp.c_proj"]), targets("c_attn", exclude_modules=["c_attn"]),
        targets("c_attn", layers_to_transform=[1]), targets("c_attn", layers_to_transform=0),
        targets("c_attn", "lm_head", layers_to_transform=[0]), targets("c_attn", layers_to_transform=[7]),
        targets("transformer.h.0.attn.c_attn", layers_to_transform=[1]),
        targets("c_attn", layers_to_transform=[1], layers_pattern="h"),
        targets("c_attn", layers_to_transform=[1], layers_pattern=["layers", "h"]),
        targets("c_attn", layers_to_transform=[1], layers_pattern="layers"),
        targets("c_attn", "c_proj", modules_to_save=["mlp"]), targets("wte", "c_fc", modules_to_save=["wte"]),
        dict(target_modules="all-linear", modules_to_save=["lm_head"]), dict(target_modules=None),
    ],
    "llama": [
        targets("q_proj", "v_proj"), targets("self_attn.q_proj"), targets("mlp"), targets("embed_tokens"),
        dict(target_modules=r".*\.(q|k|v|o)_proj"), dict(target_modules=r"model\.layers\.1\.self_attn\.[qk]_proj"),
        dict(target_modules="all-linear"), dict(target_modules="all-linear", modules_to_save=["lm_head"]),
        dict(target_modules="all-linear", exclude_modules=["self_attn.q_proj", "down_proj"]),
        targets("down_proj", layers_to_transform=[0], layers_pattern="layers"), dict(target_modules=None),
        targets("q_proj", exclude_modules=r"model\.layers\.0"), targets("q_proj", exclude_modules=r".*layers\.0.*"),
    ],
    "moe": [
        targets("q_proj"), targets("w1"), targets("w1", layers_to_transform=[1]),
        targets("w1", layers_to_transform=[0, 2]), targets("w1", layers_to_transform=[1], layers_pattern="experts"),
        targets("w1", layers_to_transform=[1], layers_pattern="blocks"), targets("to_out.0"), targets("0"),
        targets("q_proj", layers_to_transform=[1]), targets("q_proj", layers_to_transform=[1], layers_pattern="layers"),
        targets("encoder.layers.0.attn.q_proj"), targets("layers.0.attn.q_proj"), targets("stem", "embed"),
        dict(target_modules=r"(encoder|decoder)\..*\.experts\.1\.w\d"), targets("norm"),
        dict(target_modules="all-linear"),
    ],
}


def build(name):
    if name == "moe":
        return Mixture()
    return AutoModelForCausalLM.from_pretrained(f"fixtures/models/{name}", attn_implementation="eager",
                                                dtype=torch.float32)


def kind_of(module):
    name = type(module).__name__
    return name if name in ("Linear", "Conv1D", "Embedding", "Conv2d") else "other"


def run(name, config):
    paths = [path for path, _ in build(name).named_modules()]
    task = None if name == "moe" else "CAUSAL_LM"
    try:
        adapted = get_peft_model(build(name), LoraConfig(r=2, task_type=task, **config))
    except (ValueError, TypeError) as error:
        return dict(model=name, config=config, error=str(error).strip().split(". ")[0].split("\n")[0])
    names = set(adapted.base_model.targeted_module_names)
    return dict(model=name, config=config, matched=[path for path in paths if path in names])


def main():
    models = {name: [dict(path=path, kind=kind_of(module)) for path, module in build(name).named_modules() if path]
              for name in CASES}
    cases = [run(name, config) for name, configs in CASES.items() for config in configs]
    path = Path("fixtures/peft/targets.json")
    lines = ",\n".join("    " + json.dumps(case) for case in cases)
    listing = ",\n".join(f"    {json.dumps(name)}: {json.dumps(modules)}" for name, modules in models.items())
    path.write_text(f'{{\n  "models": {{\n{listing}\n  }},\n  "cases": [\n{lines}\n  ]\n}}\n')
    json.loads(path.read_text())
    print(f"{len(cases)} cases, {sum('error' in case for case in cases)} of them errors")


if __name__ == "__main__":
    main()
