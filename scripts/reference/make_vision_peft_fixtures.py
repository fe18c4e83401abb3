"""Adapter folders written by PEFT for networks of fixtures/vision, and what PEFT computes with them.

    (environment: see make_vision_fixtures.py)
    .cache/reference/bin/python scripts/reference/make_vision_peft_fixtures.py [CASE ...]

Writes fixtures/vision-peft/CASE/: the folder as save_pretrained writes it (`base.txt` names the network), and
expected.safetensors: pixel_values, logits, and merged.NAME, every weight that merge_and_unload changed by its name in the
base's file. Convolutions in groups have no merged weights: PEFT does not merge them.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

ROOT = Path(__file__).resolve().parents[2]
os.chdir(ROOT)
CASES = {
    "vit": ("vit", dict(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"],
                        rank_pattern={"layers.1.attention.q_proj": 5})),
    # The same names as before transformers 5, which most published adapters have.
    "vit-older": ("vit", dict(target_modules=["q_proj", "fc1"], r=2)),
    "vit-patches": ("vit", dict(target_modules=["projection", "fc2"], use_dora=True)),
    "resnet": ("resnet", dict(target_modules=["convolution"], use_rslora=True, r=3)),
    "resnet-dora": ("resnet-basic", dict(target_modules=["convolution", "classifier.1"], use_dora=True)),
    "resnet-strided": ("resnet", dict(target_modules=r".*(embedder|shortcut)\.convolution", modules_to_save=["classifier"])),
    "mobilenet": ("mobilenet-dilated", dict(target_modules=r".*(expand|reduce)_1x1\.convolution")),
    "mobilenet-depthwise": ("mobilenet-dilated", dict(target_modules=["conv_stem.conv_3x3.convolution"], r=4)),
    "resnet-ia3": ("resnet-basic", dict(kind="IA3Config", target_modules=["convolution", "classifier.1"],
                                        feedforward_modules=r".*layer\.1\.convolution")),
    "resnet-loha": ("resnet-basic", dict(kind="LoHaConfig", r=2, target_modules=["convolution"])),
    "resnet-loha-taps": ("resnet-basic", dict(kind="LoHaConfig", r=3, alpha=30, use_effective_conv2d=True,
                                              target_modules=["convolution"])),
    "resnet-adalora": ("resnet-basic", dict(kind="AdaLoraConfig", init_r=3, lora_alpha=20, total_step=9,
                                            target_modules=["convolution"])),
    "resnet-hira": ("resnet-basic", dict(kind="HiraConfig", r=3, target_modules=["convolution"])),
    "resnet-lokr": ("resnet", dict(kind="LoKrConfig", r=1, target_modules=["convolution"])),
    "resnet-lokr-taps": ("resnet-basic", dict(kind="LoKrConfig", r=1, use_effective_conv2d=True, decompose_both=True,
                                              target_modules=["convolution"])),
    "resnet-lokr-whole": ("resnet-basic", dict(kind="LoKrConfig", r=30, alpha=30, target_modules=["convolution"])),
}
OLDER = [("vit.layers.", "vit.encoder.layer."), ("attention.q_proj", "attention.attention.query"),
         ("mlp.fc1", "intermediate.dense")]


def base_of(name):
    options = dict(attn_implementation="eager") if name == "vit" else {}
    return AutoModelForImageClassification.from_pretrained(f"fixtures/vision/{name}", **options).eval()


def older(text):
    for now, before in OLDER:
        text = text.replace(now, before)
    return text


def config_of(kind="LoraConfig", **options):
    defaults = {"r": 4, "lora_alpha": 6} if kind == "LoraConfig" else {}
    return getattr(peft, kind)(**{**defaults, **options})


def file_names(model, name):
    stored = load_file(f"fixtures/vision/{name}/model.safetensors")
    return {key: key if key in stored else next(
        other for other, value in stored.items() if value.shape == tensor.shape and torch.equal(value, tensor))
        for key, tensor in model.state_dict().items()}


def make(case, seed):
    name, options = CASES[case]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = get_peft_model(base_of(name), config_of(**options)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter * (1 + 0.2 * noise) if "magnitude" in key else parameter + noise * 0.1)
    folder = Path("fixtures/vision-peft") / case
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "base.txt").write_text(name + "\n")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config[key], list):
            config[key] = sorted(config[key])
    adapted = PeftModel.from_pretrained(base_of(name), folder).eval()
    pixels = load_file(f"fixtures/vision/{name}/expected.safetensors")["in.pixel_values"]
    expected = {"pixel_values": pixels}
    with torch.no_grad():
        base = base_of(name)
        before = base(pixels).logits
        expected["logits"] = adapted(pixels).logits
        change = (expected["logits"] - before).abs().max().item()
        if not case.endswith("depthwise"):
            names = file_names(base, name)
            merged = adapted.merge_and_unload()
            torch.testing.assert_close(merged(pixels).logits, expected["logits"], rtol=1e-3, atol=1e-3)
            old = base.state_dict()
            for key, tensor in merged.state_dict().items():
                if not torch.equal(tensor, old[key]):
                    expected[f"merged.{names[key]}"] = tensor
    if case == "vit-older":
        config["target_modules"] = ["intermediate.dense", "query"]
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({older(key): value for key, value in tensors.items()}, folder / "adapter_model.safetensors",
                  metadata={"format": "pt"})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    print(f"{case}: change {change:.3f}, {sum(key.startswith('merged') for key in expected)} merged weights")


if __name__ == "__main__":
    for index, each in enumerate(CASES):
        if len(sys.argv) == 1 or each in sys.argv[1:]:
            make(each, 10 * (index + 1))
