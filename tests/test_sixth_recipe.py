"""One more experiment costs one file: launched, trained, stopped, resumed, scored, reported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools import ROOT, only_run, status

RECIPE = '''"""Is a remark friendly?"""

import random

from lib.config import Config, DataConfig, ModelConfig, OptimConfig
from lib.answers import metrics
from lib.recipe import Example, Recipe

CONFIG = Config(
    recipe="friendly",
    data=DataConfig(data="sample", max_length=64),
    model=ModelConfig(model="minilm"),
    optim=OptimConfig(batch=16),
)


def sample_rows(num_rows, seed):
    draw = random.Random(seed)
    rows = []
    for number in range(num_rows):
        kind = draw.choice(("kind", "rude"))
        rows.append({"remark": f"remark {number} is {kind}", "friendly": kind == "kind"})
    return rows


def to_example(row):
    return Example(group=row["remark"], texts=[[row["remark"]]], label=int(row["friendly"]))


RECIPE = Recipe(
    task="classify", config=CONFIG, columns=(("remark", "friendly"),), labels=("no", "yes"),
    sample=sample_rows, to_example=to_example, metrics=(metrics.ACCURACY, metrics.LOG_LOSS),
)
'''


def test_a_sixth_recipe_is_one_new_file(tmp_path: Path) -> None:
    for folder in ("lib", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lib" / "recipes" / "friendly.py").write_text(RECIPE)

    def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "scripts" / script), *words]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)

    runs = tmp_path / "runs"
    done = run("train.py", "friendly", "--smoke", "--runs-dir", str(runs))
    assert done.returncode == 0, done.stderr
    assert "stopped at step 3 as planned" in done.stdout + done.stderr
    folder = only_run(runs)
    assert status(folder)["phase"] == "done"
    scores = json.loads((folder / "scores.json").read_text())["splits"]["test"]
    assert list(scores["scores"]) == ["accuracy", "log_loss"] and scores["labels"] == ["no", "yes"]
    assert "friendly" in (folder / "report.html").read_text()
    assert json.loads((folder / "lint.json").read_text())["target"] in ("no", "yes")
    again = run("evaluate.py", str(folder))
    assert "the same to the last digit as training reported" in again.stdout, again.stderr
