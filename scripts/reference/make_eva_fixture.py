"""EVA's ranks and directions of a tiny model by PEFT: src/methods/lowrank/eva.fixture.json.

python scripts/reference/make_eva_fixture.py
"""

import json
import re
import sys
from pathlib import Path

import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "src/methods/lowrank/eva.fixture.json"
ROWS, LENGTH, ALPHA = 6, 16, 8


def ids():
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 60, (ROWS, LENGTH), generator=generator)


def run(rank, rho, adjust, whiten):
    model = AutoModelForCausalLM.from_pretrained(ROOT / "fixtures/models/llama", torch_dtype=torch.float32)
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=rho, adjust_scaling_factors=adjust, whiten=whiten),
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    batch = {"input_ids": ids(), "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long)}
    initialize_lora_eva_weights(tuned, [batch], show_progress_bar=False)
    done = tuned.peft_config["default"]
    sites = {}
    for name, value in tuned.state_dict().items():
        found = re.match(r"base_model\.model\.(.*)\.lora_A\.default\.weight", name)
        if found:
            sites[found[1]] = {"rank": value.shape[0], "a": [round(x, 6) for x in value.flatten().tolist()]}
    return {
        "rank": rank,
        "rho": rho,
        "adjustScaling": adjust,
        "whiten": whiten,
        "rankPattern": done.rank_pattern,
        "alphaPattern": done.alpha_pattern,
        "sites": sites,
    }


def main():
    torch.manual_seed(0)
    cases = [run(4, 2.0, True, False), run(4, 3.0, False, True), run(1, 6.0, True, False)]
    result = {"alpha": ALPHA, "ids": ids().tolist(), "cases": cases}
    OUT.write_text(json.dumps(result) + "\n")
    for case in cases:
        print(case["rank"], case["rho"], {name: site["rank"] for name, site in case["sites"].items()}, case["alphaPattern"])


if __name__ == "__main__":
    sys.exit(main())
