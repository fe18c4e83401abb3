"""Writes fixtures/optim.json: 20 updates of torch's optimisers and the values of transformers' and torch's schedules.

Run with a Python that has torch and transformers:  python scripts/reference/make_optim_fixture.py
Gradients depend on the parameters (a quadratic plus fixed noise), so an error in one step carries into the next.
"""

import json
import math
import pathlib
import warnings

import torch
import transformers
from transformers import optimization as hf

warnings.filterwarnings("ignore")
torch.manual_seed(0)
STEPS = 20
NAMES = {"layer.lora_A.weight": 5, "layer.lora_B.weight": 4}


def numbers(tensor):
    return [float(x) for x in tensor.tolist()]


START = {name: torch.randn(size) for name, size in NAMES.items()}
NOISE = {name: torch.randn(STEPS, size) for name, size in NAMES.items()}

OPTIMIZERS = {
    "adamw": ("AdamW", dict(lr=0.01)),
    "adamw-decay": ("AdamW", dict(lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)),
    "adamw-amsgrad": ("AdamW", dict(lr=0.01, amsgrad=True)),
    "adam": ("Adam", dict(lr=0.01)),
    "adam-l2": ("Adam", dict(lr=0.01, weight_decay=0.1)),
    "sgd": ("SGD", dict(lr=0.05)),
    "sgd-momentum": ("SGD", dict(lr=0.05, momentum=0.9, weight_decay=0.01)),
    "sgd-nesterov": ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
}


def run(build, clip=None, schedule=None):
    params = {name: torch.nn.Parameter(value.clone()) for name, value in START.items()}
    optimizer = build(params)
    scheduler = schedule(optimizer) if schedule else None
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = 0.5 * p.detach() + NOISE[name][step]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(list(params.values()), clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return {name: numbers(p.detach()) for name, p in params.items()}


def lora_plus(params):
    a, b = params.values()
    return torch.optim.AdamW([{"params": [a]}, {"params": [b], "lr": 0.16, "weight_decay": 0.0}], lr=0.01)


final = {key: run(lambda p, k=kind, o=opts: getattr(torch.optim, k)(list(p.values()), **o)) for key, (kind, opts) in OPTIMIZERS.items()}
final["adamw-clip-cosine"] = run(
    lambda p: torch.optim.AdamW(list(p.values()), lr=0.05),
    clip=0.7,
    schedule=lambda o: hf.get_cosine_schedule_with_warmup(o, 4, STEPS),
)
final["adamw-lora-plus"] = run(lora_plus)

SCHEDULES = {
    "constant": lambda o: hf.get_constant_schedule_with_warmup(o, 5),
    "linear": lambda o: hf.get_linear_schedule_with_warmup(o, 5, 30),
    "cosine": lambda o: hf.get_cosine_schedule_with_warmup(o, 5, 30),
    "cosine-no-warmup": lambda o: hf.get_cosine_schedule_with_warmup(o, 0, 30),
    "cosine-min": lambda o: hf.get_cosine_with_min_lr_schedule_with_warmup(o, 5, 30, num_cycles=0.75, min_lr_rate=0.1),
    "cosine-with-restarts": lambda o: hf.get_cosine_with_hard_restarts_schedule_with_warmup(o, 5, 30, num_cycles=3),
    "polynomial": lambda o: hf.get_polynomial_decay_schedule_with_warmup(o, 5, 30, lr_end=0.05, power=2.0),
    "inverse-sqrt": lambda o: hf.get_inverse_sqrt_schedule(o, 5),
    "inverse-sqrt-timescale": lambda o: hf.get_inverse_sqrt_schedule(o, 5, timescale=9),
    "wsd": lambda o: hf.get_wsd_schedule(o, 5, 10, num_training_steps=30),
    "wsd-1-sqrt": lambda o: hf.get_wsd_schedule(
        o, 5, 10, num_training_steps=30, warmup_type="1-sqrt", decay_type="1-sqrt", min_lr_ratio=0.1),
    "wsd-cosine-linear": lambda o: hf.get_wsd_schedule(
        o, 5, 10, num_training_steps=30, warmup_type="cosine", decay_type="linear"),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=30),
    "one-cycle-linear": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 1.0, total_steps=30, pct_start=0.2, anneal_strategy="linear", div_factor=10.0, final_div_factor=100.0),
}


def values(build):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer)
    one_cycle = isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR)
    factors = []
    for _ in range(30 if one_cycle else 33):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(factors) < 30 or not one_cycle:
            scheduler.step()
    return factors


out = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "steps": STEPS,
    "start": {name: numbers(v) for name, v in START.items()},
    "noise": {name: [numbers(row) for row in v] for name, v in NOISE.items()},
    "final": final,
    "schedules": {name: values(build) for name, build in SCHEDULES.items()},
}
assert all(math.isfinite(x) for v in out["schedules"].values() for x in v)
path = pathlib.Path(__file__).parents[2] / "fixtures" / "optim.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(out) + "\n")
print(path, path.stat().st_size, "bytes")
