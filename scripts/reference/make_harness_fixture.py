"""Writes fixtures/harness/expected.json: what the LM evaluation harness gives for the tasks of fixtures/harness.

Usage: python scripts/reference/make_harness_fixture.py   (needs lm-eval and what make_model_fixtures.py needs)
The model is assets/default-model in float32. `results` are the harness' own, without standard errors that it draws by
lot; `samples` has for each row what was asked, and answered before filters.
"""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[2]
TASKS = ["choices", "self", "first", "inputs", "cloze", "rolling", "written"]
os.chdir(ROOT / "fixtures/harness")

import lm_eval  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

model = HFLM(pretrained=str(ROOT / "assets/default-model"), device="cpu", dtype="float32", batch_size=4)
outcome = lm_eval.simple_evaluate(
    model=model,
    tasks=TASKS,
    task_manager=TaskManager(include_path=str(ROOT / "fixtures/harness"), include_defaults=False),
    log_samples=True,
    bootstrap_iters=10,
)


def plain(value):
    return value if isinstance(value, str) else [float(value[0]), bool(value[1])] if isinstance(value, tuple) else float(value)


def asked(arguments):
    return [list(arg[:1] if isinstance(arg[-1], dict) else arg) for arg in arguments]


def closed_form(key):
    return "_stderr" not in key or key.split("_stderr")[0] in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")


fixture = {
    "results": {
        name: {key: value for key, value in row.items() if closed_form(key)}
        for name, row in outcome["results"].items()
    },
    "n-shot": outcome["n-shot"],
    "higher_is_better": outcome["higher_is_better"],
    "samples": {
        name: [
            {
                "doc_id": row["doc_id"],
                "filter": row["filter"],
                "arguments": asked(row["arguments"]),
                "resps": [plain(r[0]) for r in row["resps"]],
                "filtered": [r if isinstance(r, str) else None for r in row["filtered_resps"]],
            }
            for row in sorted(rows, key=lambda row: (row["filter"], row["doc_id"]))
        ]
        for name, rows in outcome["samples"].items()
    },
}
(ROOT / "fixtures/harness/expected.json").write_text(json.dumps(fixture, ensure_ascii=False, default=float) + "\n")
print(json.dumps(fixture["results"], indent=1, default=str))
