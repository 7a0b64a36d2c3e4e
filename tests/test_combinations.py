"""Which parts of a configuration go together: every combination is trained (here with --faults, the common
ones in tests/test_zero.py) or refused with a reason, before anything is downloaded; and --deepspeed-config
never overrules a flag unseen."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lib import deepspeed_config, recipe
from lib.command_line import parse
from lib.config import Config
from tests.tools import SHORT, configured, losses, only_run, run, save_random, wide_model

OFFLOADS = ((), ("--offload-optimizer", "cpu"), ("--offload-params", "cpu"))
OFFLOADS += (("--offload-optimizer", "cpu", "--offload-params", "cpu"),)
PRODUCT = list(
    itertools.product(
        ("ddp", "zero1", "zero2", "zero3"),
        ("none", "nf4", "fp4", "int8"),
        ("0", "4"),
        OFFLOADS,
        (False, True),
        (False, True),
    )
)


def parsed(*words: str) -> Config:
    return parse(recipe.load("boolq").config, list(words), "test")


def refused(*words: str) -> str:
    with pytest.raises(ValueError) as error:
        parsed(*words)
    return str(error.value)


@dataclass(frozen=True)
class Combination:
    strategy: str
    quantize: str
    rank: str
    offload: tuple[str, ...]
    checkpointing: bool
    compiled: bool

    def words(self) -> list[str]:
        words = ["--strategy", self.strategy, "--quantize", self.quantize, "--lora-rank", self.rank]
        words += [*self.offload, *["--gradient-checkpointing"] * self.checkpointing]
        return words + ["--compile"] * self.compiled

    def refusals(self) -> list[str]:
        """Words of each reason why it cannot be."""
        few_bits, params_away = self.quantize != "none", "--offload-params" in self.offload
        reasons = {
            "is DeepSpeed's": self.strategy == "ddp" and self.offload,
            "with all weights there": self.strategy in ("zero1", "zero2") and params_away,
            "cannot train": few_bits and self.rank == "0",
            "keeps its scales beside the weights": self.strategy == "zero3" and self.quantize == "int8",
            "small already": self.strategy == "zero3" and few_bits and params_away,
            "every layer would be compiled again": self.strategy == "zero3" and self.compiled,
        }
        return [words for words, holds in reasons.items() if holds]


COMBINATIONS = [Combination(*parts) for parts in PRODUCT]
# Of quantization and LoRA five pairs can train, each with and without checkpointing. Twice (compile) 5 under
# ddp, twice 5 on two kinds of offload under zero1 and zero2; under zero3 the two in full on all four kinds of
# offload and two of 4 bits on two: (10 + 20 + 20 + 8 + 4) * 2 = 124
ALLOWED = [each for each in COMBINATIONS if not each.refusals()]


def test_every_combination_is_allowed_or_refused_for_a_reason_of_its_own() -> None:
    assert len(ALLOWED) == 124
    for each in COMBINATIONS:
        words = ["--model", "minilm", *each.words()]
        if each in ALLOWED:
            configured("boolq", words)
            continue
        with pytest.raises(ValueError) as error:  # the command line's own parser takes five times as long
            configured("boolq", words)
        text = str(error.value)
        for reason in each.refusals():
            assert reason in text, words
        # a reason too many would be one that nobody has thought of
        more = each.strategy == "ddp" and len(each.offload) == 4
        assert len(text.splitlines()) == len(each.refusals()) + more, words


@pytest.fixture(scope="module")
def losses_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Combination], list[float]]:
    """Of three steps on two ranks, in float32 and without dropout; each trained once."""
    model, done = wide_model(tmp_path_factory.mktemp("model"), "decoder"), dict[Combination, list[float]]()
    save_random(Path(model))

    def train(each: Combination) -> list[float]:
        if each not in done:
            runs = tmp_path_factory.mktemp("runs")
            words = [*SHORT, "--model", model, "--max-steps", "3", "--dropout", "0", "--devices", "2"]
            ended = run("boolq", *words, *each.words(), "--runs-dir", str(runs), timeout=900)
            assert ended.returncode == 0, ended.stderr
            done[each] = losses(only_run(runs))
        return done[each]

    return train


@pytest.mark.faults
@pytest.mark.parametrize("each", ALLOWED, ids=lambda each: " ".join(each.words()))
def test_what_is_allowed_trains_as_ddp_does(
    losses_of: Callable[[Combination], list[float]], each: Combination
) -> None:
    plain = replace(each, strategy="ddp", offload=(), checkpointing=False, compiled=False)
    assert losses_of(each) == pytest.approx(losses_of(plain), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--strategy zero2 --optimizer adamw8bit", "blocks of 8 bits"),
        ("--strategy zero2 --offload-optimizer disk --offload-dir /tmp", "stage 3 alone"),
        ("--strategy zero3 --offload-optimizer disk", "need --offload-dir"),
        ("--strategy zero3 --offload-dir /tmp", "holds nothing"),
        ("--strategy zero3 --offload-params disk --offload-dir /nowhere", "no such folder"),
        ("--strategy zero1 --reduce ordered", "DeepSpeed adds up gradients itself"),
        ("--deepspeed-config x.json", "is DeepSpeed's"),
    ],
)
def test_what_else_does_not_go_together(words: str, reason: str) -> None:
    assert reason in refused("--model", "minilm", "--lora-rank", "0", "--quantize", "none", *words.split())


def test_a_refusal_costs_neither_a_download_nor_a_run_folder(tmp_path: Path) -> None:
    words = ["--model", "no/such-model", "--offload-optimizer", "cpu", "--runs-dir", str(tmp_path / "runs")]
    done = run("boolq", *words)
    assert done.returncode == 2 and "--strategy ddp works without it" in done.stderr
    assert not (tmp_path / "runs").exists()


def told(tmp_path: Path, values: object, *words: str) -> str:
    file = tmp_path / "ds.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    common = ["--model", "minilm", "--lora-rank", "0", "--quantize", "none"]
    return refused(*common, "--strategy", "zero2", "--deepspeed-config", str(file), *words)


def test_a_file_that_contradicts_flags_is_refused_with_both_values(tmp_path: Path) -> None:
    text = told(
        tmp_path,
        {"gradient_clipping": 0.5, "zero_optimization": {"stage": 3}, "bf16": {"enabled": True}},
        "--clip",
        "2",
    )
    assert len(text.splitlines()) == 3
    assert "gradient_clipping = 0.5, the flags say 2.0" in text and "--clip" in text
    assert "zero_optimization.stage = 3, the flags say 2" in text and "--strategy" in text
    assert "bf16.enabled = True, the flags say False" in text and "--precision" in text


def test_a_file_that_trains_otherwise_is_refused(tmp_path: Path) -> None:
    assert "--optimizer, --lr" in told(tmp_path, {"optimizer": {"type": "Lamb", "params": {"lr": 1e-3}}})
    assert "--schedule" in told(tmp_path, {"scheduler": {"type": "WarmupLR"}})
    assert "nobody" not in told(tmp_path, {"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}})


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    assert "ds.json" in told(tmp_path, text)


def test_a_file_is_merged_over_the_flags_and_auto_is_what_the_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    values = {"gradient_clipping": "auto", "zero_optimization": {"stage": "auto", "reduce_bucket_size": 1000}}
    file.write_text(json.dumps(values | {"optimizer": {"type": "auto"}, "zero_allow_untested_optimizer": 1}))
    config = parsed("--model", "minilm", "--strategy", "zero2", "--deepspeed-config", str(file))
    merged = deepspeed_config.merged(config, 4)
    assert merged["gradient_clipping"] == config.optim.clip and merged["train_batch_size"] == 4
    assert merged["zero_optimization"]["reduce_bucket_size"] == 1000
    assert merged["zero_optimization"]["stage"] == 2 and "optimizer" not in merged
