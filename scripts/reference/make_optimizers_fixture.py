"""Writes fixtures/optimizers.json: 30 updates of the reference optimisers on a matrix, a wide matrix and a vector.

Run with a Python that has torch, transformers, lion-pytorch, prodigyopt, dadaptation, schedulefree and bitsandbytes:
    python scripts/reference/make_optimizers_fixture.py
Gradients depend on the parameters (a quadratic plus fixed noise), so an error in one step carries into the next.
"""

import importlib.metadata
import json
import math
import pathlib
import warnings

import dadaptation
import lion_pytorch
import prodigyopt
import schedulefree
import torch
import transformers
from bitsandbytes.functional import create_dynamic_map
from transformers.optimization import Adafactor

warnings.filterwarnings("ignore")
torch.manual_seed(3)
STEPS = 30
SHAPES = {"layers.0.up.weight": (4, 3), "layers.1.down.weight": (2, 5), "layers.1.bias": (3,)}
START = {name: torch.randn(shape) for name, shape in SHAPES.items()}
NOISE = {name: 0.2 * torch.randn(STEPS, *shape) for name, shape in SHAPES.items()}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2]


def numbers(tensor):
    return [float(x) for x in tensor.detach().flatten().tolist()]


def run(build, names=tuple(SHAPES), factor=None):
    """Final parameters, what evaluation sees where that differs, and the estimate of learning-rate-free optimisers."""
    params = {name: torch.nn.Parameter(START[name].clone()) for name in names}
    optimizer = build(list(params.values()))
    if hasattr(optimizer, "train"):
        optimizer.train()
    base = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        if factor is not None:
            for group, lr in zip(optimizer.param_groups, base):
                group["lr"] = lr * factor(step)
        for name, p in params.items():
            p.grad = 0.5 * p.detach() + NOISE[name][step]
        optimizer.step()
    out = {"final": {name: numbers(p) for name, p in params.items()}}
    if "d" in optimizer.param_groups[0] and not isinstance(optimizer, torch.optim.Adafactor):
        out["d"] = float(optimizer.param_groups[0]["d"])
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        out["evaluation"] = {name: numbers(p) for name, p in params.items()}
    return out


def of(kind, **options):
    return lambda params: kind(params, **options)


# torch iterates in bfloat16, which hides errors: here it iterates in float32.
muon_module = importlib.import_module("torch.optim._muon")
source = pathlib.Path(muon_module.__file__).read_text()
scope = {"__name__": "muon32", "__package__": "torch.optim"}
assert "torch.bfloat16" in source
exec(compile(source.replace("torch.bfloat16", "torch.float32"), "muon32", "exec"), scope)
Muon = scope["Muon"]

half_cosine = lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS))

cases = {
    "lion": run(of(lion_pytorch.Lion, lr=0.01, weight_decay=0.1)),
    "lion-betas": run(of(lion_pytorch.Lion, lr=0.003, betas=(0.8, 0.95))),
    "rmsprop": run(of(torch.optim.RMSprop, lr=0.01)),
    "rmsprop-full": run(
        of(torch.optim.RMSprop, lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.05, momentum=0.8, centered=True)),
    "adagrad": run(of(torch.optim.Adagrad, lr=0.1)),
    "adagrad-start": run(of(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.1, weight_decay=0.05)),
    "nadam": run(of(torch.optim.NAdam, lr=0.01, weight_decay=0.05, decoupled_weight_decay=True)),
    "adafactor": run(of(Adafactor)),
    "adafactor-lr": run(
        of(Adafactor, lr=0.02, relative_step=False, scale_parameter=False, weight_decay=0.05, beta1=0.9, clip_threshold=0.5)),
    "adafactor-warmup": run(of(Adafactor, warmup_init=True)),
    "adafactor-torch": run(of(torch.optim.Adafactor, lr=0.01, weight_decay=0.0, eps=(1e-30, 1e-3))),
    "muon": run(of(Muon, lr=0.02, weight_decay=0.1), MATRICES),
    "muon-rms": run(of(Muon, lr=0.02, nesterov=False, adjust_lr_fn="match_rms_adamw", ns_steps=3), MATRICES),
    "muon-spectral": run(of(Muon, lr=0.02, adjust_lr_fn="spectral_unclamped", momentum=0.8), MATRICES),
    "schedule-free-adamw": run(of(schedulefree.AdamWScheduleFree, lr=0.02, weight_decay=0.05)),
    "schedule-free-adamw-power": run(
        of(schedulefree.AdamWScheduleFree, lr=0.02, betas=(0.8, 0.95), r=1.0, weight_lr_power=1.0)),
    "schedule-free-sgd": run(of(schedulefree.SGDScheduleFree, lr=0.1, weight_decay=0.05)),
    "dadapt-sgd": run(of(dadaptation.DAdaptSGD)),
    "dadapt-sgd-full": run(of(dadaptation.DAdaptSGD, momentum=0.9, weight_decay=0.05, d0=1e-3, growth_rate=1.5)),
    "dadapt-adam": run(of(dadaptation.DAdaptAdam)),
    "dadapt-adam-full": run(
        of(dadaptation.DAdaptAdam, d0=1e-3, weight_decay=0.05, decouple=True, use_bias_correction=True, betas=(0.8, 0.95)),
        factor=half_cosine),
    "dadapt-adam-coupled": run(of(dadaptation.DAdaptAdam, d0=1e-3, weight_decay=0.05, growth_rate=1.1)),
    "dadapt-lion": run(of(dadaptation.DAdaptLion, d0=1e-3, weight_decay=0.05)),
    "dadapt-adagrad": run(of(dadaptation.DAdaptAdaGrad, d0=1e-3)),
    "dadapt-adagrad-full": run(of(dadaptation.DAdaptAdaGrad, d0=1e-3, momentum=0.5, weight_decay=0.05)),
    "dadapt-adan": run(of(dadaptation.DAdaptAdan, d0=1e-3)),
    "prodigy": run(of(prodigyopt.Prodigy)),
    "prodigy-full": run(
        of(prodigyopt.Prodigy, d0=1e-3, weight_decay=0.05, use_bias_correction=True, safeguard_warmup=True, slice_p=2, d_coef=2.0),
        factor=half_cosine),
    "prodigy-coupled": run(of(prodigyopt.Prodigy, weight_decay=0.05, decouple=False, growth_rate=1.5, betas=(0.9, 0.99))),
}


def ema_and_swa():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = torch.nn.ParameterList([torch.nn.Parameter(v.clone()) for v in START.values()])
    params = dict(zip(SHAPES, model))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ema.update_parameters(model)  # the first call copies
    swa = AveragedModel(model)
    optimizer = torch.optim.SGD(list(params.values()), lr=0.1)
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = 0.5 * p.detach() + NOISE[name][step]
        optimizer.step()
        ema.update_parameters(model)
        if step + 1 >= 10 and (step + 1 - 10) % 3 == 0:
            swa.update_parameters(model)
    read = lambda averaged: dict(zip(SHAPES, (numbers(p) for p in averaged.module)))
    return {"ema": {"evaluation": read(ema)}, "swa": {"evaluation": read(swa)}}


cases.update(ema_and_swa())
packages = ["torch", "transformers", "lion-pytorch", "prodigyopt", "dadaptation", "schedulefree", "bitsandbytes"]
out = {
    "versions": {name: importlib.metadata.version(name) for name in packages},
    "steps": STEPS,
    "shapes": {name: list(shape) for name, shape in SHAPES.items()},
    "start": {name: numbers(v) for name, v in START.items()},
    "noise": {name: [numbers(row) for row in v] for name, v in NOISE.items()},
    "cases": cases,
    "dynamicMaps": {
        "signed": numbers(create_dynamic_map(True)),
        "unsigned": numbers(create_dynamic_map(False)),
    },
}
path = pathlib.Path(__file__).parents[2] / "fixtures" / "optimizers.json"
path.write_text(json.dumps(out) + "\n")
print(path, path.stat().st_size, "bytes")
for name, case in cases.items():
    print(name, case.get("d", ""))
