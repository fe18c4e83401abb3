"""What PEFT's rank allocator leaves of three modules over a run whose gradients follow a formula.

    (environment: see make_peft_fixtures.py)
    .cache/reference/bin/python scripts/reference/make_adalora_fixture.py

Writes src/methods/lowrank/adalora.fixture.json: per schedule the settings and, after every step, E of every module.
Numbers of part p (A, E, B: 0, 1, 2) of module m: start 0.1 + 0.05 cos(i + 3p + 7m), gradient of step t
sin(0.37 (i + 1) (t + 2) + 5p + 11m) / 10; the optimiser is gradient descent with rate 0.1.
"""

import json
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import AdaLoraConfig, get_peft_model

SIZES = [(6, 4), (5, 7), (8, 3)]
SCHEDULES = [
    dict(init_r=4, target_r=2, tinit=2, tfinal=3, deltaT=1, total_step=12),
    dict(init_r=3, target_r=1, tinit=0, tfinal=0, deltaT=3, total_step=10, beta1=0.5, beta2=0.7),
]
PARTS = ["lora_A", "lora_E", "lora_B"]


class Maps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.maps = torch.nn.ModuleList(torch.nn.Linear(i, o) for i, o in SIZES)

    def forward(self, x):
        return x


def numbers(shape, formula):
    count = math.prod(shape)
    return torch.tensor([formula(i) for i in range(count)], dtype=torch.float64).float().reshape(shape)


def run(schedule):
    model = get_peft_model(Maps(), AdaLoraConfig(target_modules=["0", "1", "2"], **schedule))
    parts = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            module, part = int(name.split("maps.")[1][0]), PARTS.index(name.split(".")[-2])
            parts[module, part] = parameter
            parameter.data = numbers(parameter.shape, lambda i: 0.1 + 0.05 * math.cos(i + 3 * part + 7 * module))
    after = []
    for step in range(1, schedule["total_step"] + 1):
        for (module, part), parameter in parts.items():
            parameter.grad = numbers(parameter.shape, lambda i: math.sin(
                0.37 * (i + 1) * (step + 2) + 5 * part + 11 * module) / 10)
            parameter.data -= 0.1 * parameter.grad
        model.base_model.update_and_allocate(step)
        after.append([parts[module, 1].flatten().tolist() for module in range(3)])
    return dict(schedule=schedule, after=after)


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[2] / "src/methods/lowrank/adalora.fixture.json"
    path.write_text(json.dumps(dict(sizes=SIZES, runs=[run(each) for each in SCHEDULES])) + "\n")
    print(path, [[sum(value == 0 for row in rows for value in row) for rows in each["after"]]
                 for each in json.loads(path.read_text())["runs"]])
