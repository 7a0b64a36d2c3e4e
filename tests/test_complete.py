"""The task complete: what carries loss, that sharing and padding change nothing, and that a written text is a
function of its row."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import recipe
from lib.base.exits import RepeatsError, StoppedError
from lib.command_line import parse
from lib.data import rows as encoded_rows
from lib.data import text
from lib.data.completions import SharedCosts, clusters, lay
from lib.data.loader import Loader, cut
from lib.data.rows import Rows
from lib.evaluation.predictor import Predictor
from lib.models import completers, language, placement, writing
from lib.process import dist
from lib.process.signals import StopFlag
from lib.recipe import Example
from lib.tasks import complete, families
from lib.tasks import make as make_task
from tests.test_choose import tiny_model
from tests.tools import STORIES, wide_model

RAG = recipe.load("german_rag")


def make(model: str, *flags: str) -> complete.Complete:
    words = ["--model", model, "--init", "random", "--precision", "fp32", "--max-length", "240"]
    words += ["--max-new-tokens", "12", "--quantize", "none", "--lora-rank", "0", *flags]
    return make_task(RAG, parse(RAG.config, words, "test"))  # type: ignore[return-value]


def example(number: int, chunks: tuple[str, ...] = ("[q-1] Es ist blau.", "[q-2] Es ist alt.")) -> Example:
    return Example(
        id=str(number),
        group=str(number),
        fields={"chunks": [*chunks], "question": ["Wie ist es" + "?" * (1 + number % 5)]},
        target="Blau" + " und alt" * (number % 4) + ".",
    )


def several(number: int = 9) -> list[Example]:
    """Three contexts with three questions each: what rows of one context begin with can be shared."""
    contexts = [
        ("[q-1] Es ist blau.", "[q-2] Es ist alt."),
        ("[q-3] Rot.",),
        ("[q-4] Ein langer Satz. " * 3,),
    ]
    return [example(place, contexts[place % 3]) for place in range(number)]


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def shaken(task: complete.Complete) -> Any:
    torch.manual_seed(0)
    model = task.build().eval()
    for parameter in model.parameters():  # norms and biases begin at 1 and 0, which hides what they do
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


# What is laid out


def test_rows_that_begin_alike_stand_in_one_sequence_and_targets_in_the_order_of_the_rows() -> None:
    pairs = [(ids(1, 2, 3, 4), ids(90, 91)), (ids(7, 7, 7), ids(70)), (ids(1, 2, 3, 5, 6), ids(80, 81, 82))]
    together = clusters([prompt for prompt, _ in pairs])
    assert [(cluster.rows, cluster.shared) for cluster in together] == [([0, 2], 3), ([1], 0)]
    texts = lay(pairs, pad=0)
    (tree,), (group,) = texts.trees, texts.groups
    assert tree.ids.tolist() == [[1, 2, 3, 4, 90, 91, 5, 6, 80, 81, 82]]
    assert tree.positions.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]]
    assert group.ids.tolist() == [[7, 7, 7, 70]] and group.mask is None
    assert texts.targets.tolist() == [90, 91, 70, 80, 81, 82]
    # 90 follows the 4 at place 3, 80 the 6 at place 7; the group begins behind the tree's 11 tokens
    assert texts.predictors.tolist() == [3, 4, 13, 7, 8, 9]
    assert (texts.amounts.real_tokens, texts.computed_tokens) == (15, 15)


def test_a_shared_beginning_leaves_every_prompt_a_token_of_its_own() -> None:
    same = [(ids(5, 6, 7), ids(1)), (ids(5, 6, 7), ids(2))]
    (cluster,) = clusters([prompt for prompt, _ in same])
    assert cluster.shared == 2
    assert lay(same, pad=0).trees[0].ids.tolist() == [[5, 6, 7, 1, 7, 2]]


def test_a_row_that_has_little_in_common_leaves_the_others_what_they_share() -> None:
    begun = list(range(10, 20))
    # three share 10 tokens, which saves 20; with the fourth, that has 6 of them, all four would save 18
    prompts = [ids(*begun, 1), ids(*begun, 2), ids(*begun, 3), ids(*begun[:6], 30, 31)]
    found = [(cluster.rows, cluster.shared) for cluster in clusters(prompts)]
    assert found == [([0, 1, 2], 10), ([3], 0)]
    # beside two of them it is welcome: 12 instead of 10
    found = [(cluster.rows, cluster.shared) for cluster in clusters([prompts[0], *prompts[2:]])]
    assert found == [([0, 1, 2], 6)]


def test_right_padding_needs_no_mask_and_costs_at_most_a_twentieth() -> None:
    draw = np.random.default_rng(0)
    prompts = [draw.integers(5, 400, size) for size in draw.integers(300, 900, 64)]
    texts = lay([(prompt.astype(np.int32), ids(1, 2)) for prompt in prompts], pad=0)
    assert not texts.trees and all(group.mask is None for group in texts.groups)
    assert texts.computed_tokens <= 1.05 * texts.amounts.real_tokens


# What carries loss


@pytest.mark.parametrize("kind", [*families.DECODERS, *families.SEQ2SEQ])
def test_losses_equal_transformers_own_of_each_row_alone(kind: str, tmp_path: Path) -> None:
    task = make(tiny_model(kind, tmp_path))
    task.check()
    rows = encoded_rows.pack(task.encode(several()))
    model = shaken(task)
    placement.attend(model)
    batch = task.collate(rows, tuple(range(len(rows))))
    assert kind in families.SEQ2SEQ or batch.inputs.trees, "rows of one context share it"
    losses = [row["loss"] for row in task.predict(model, batch)]
    for row, loss in enumerate(losses):
        prompt, target = (torch.from_numpy(each.astype(np.int64)) for each in rows.sequences_of(row))
        if kind in families.SEQ2SEQ:
            logits = model.backbone(input_ids=prompt[None], labels=target[None]).logits[0]
        else:
            logits = model.backbone(input_ids=torch.cat([prompt, target])[None], use_cache=False).logits[0]
            logits = logits[len(prompt) - 1 : -1]
        alone = F.cross_entropy(logits.float(), target, reduction="sum").item()
        assert math.isclose(loss, alone, rel_tol=1e-6, abs_tol=1e-5), (row, loss, alone)
    (whole,) = torch.autograd.grad(
        task.loss(model(batch.inputs), batch), [model.backbone.get_input_embeddings().weight]
    )
    alone_sum = torch.zeros_like(whole)
    for row in range(len(rows)):
        one = task.collate(rows, (row,))
        loss_of_row = task.loss(model(one.inputs), one)
        alone_sum += torch.autograd.grad(loss_of_row, [model.backbone.get_input_embeddings().weight])[0]
    assert (whole - alone_sum).norm() / alone_sum.norm() < 1e-6


def test_logits_made_in_pieces_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode(several()))
    model = shaken(task)
    batch = task.collate(rows, tuple(range(len(rows))))
    found = []
    for most in (language.MOST_LOGITS, 7 * len(task.tokenizer)):  # all at once; seven tokens at a time
        monkeypatch.setattr(language, "MOST_LOGITS", most)
        output = model(batch.inputs)
        loss = task.loss(output, batch)
        gradient = torch.autograd.grad(loss, [model.backbone.get_input_embeddings().weight])[0]
        found.append((loss.item(), gradient, output.right))
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5) and torch.equal(found[0][2], found[1][2])


def test_only_the_text_and_its_end_carry_loss(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    (row,) = task.encode([example(0)])
    prompt, target = row.sequences
    # bytes are tokens: the text behind a blank, and the end (id 2, which pads too)
    end = text.end_of(task.tokenizer)
    assert task.tokenizer.decode(target[:-1].tolist()) == " Blau." and target[-1] == end
    assert row.num_targets == len(" Blau.") + 1
    batch = task.collate(encoded_rows.pack([row]), (0,))
    assert batch.inputs.targets.tolist() == target.tolist()
    assert batch.inputs.predictors.tolist() == [*range(len(prompt) - 1, len(prompt) + len(target) - 1)]
    shown = task.shown(row)
    assert shown[1].startswith("[[ Blau.") and "Frage: Wie ist es?" in shown[0]


def test_targets_counted_are_the_sum_of_completion_tokens(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode(several()))
    step = Loader(task.costs(rows), dataclasses.replace(task.config.optim, batch=9)).step(1)
    assert step.num_targets == sum(len(rows.sequences_of(row)[1]) for row in range(9))


# Costs of a set


def test_a_micro_batch_costs_what_is_computed_for_it(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode(several(9)))
    costs = task.costs(rows)
    assert isinstance(costs, SharedCosts)
    for members in ((0, 3, 6), (0, 1, 2), (4, 7), tuple(range(9))):
        real = task.collate(rows, members).inputs.amounts.real_tokens
        cost = costs.tokens(np.array(members))
        # two of three rows may have a little more in common than all three
        assert real <= cost <= real + len(members) and cost == costs.tokens(np.array(members[::-1]))
    assert costs.tokens(np.arange(9)) == real
    pieces = cut(np.arange(9), costs, 10_000, 3)
    # rows of one context stay together: numbers 0 3 6, 1 4 7 and 2 5 8
    assert sorted(sorted(row % 3 for row in piece.rows) for piece in pieces) == [[0] * 3, [1] * 3, [2] * 3]


def test_contexts_drawn_together_are_every_row_once(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path), "--draw", "contexts")
    rows = encoded_rows.pack(task.encode(several(9)))
    loader = Loader(task.costs(rows), dataclasses.replace(task.config.optim, batch=4, epochs=1))
    seen = [loader.step(number).row_numbers() for number in (1, 2, 3)]
    assert sorted(row for step in seen for row in step) == [*range(9)]
    assert (
        sum(len({row % 3 for row in step}) for step in seen) <= 5
    )  # a context is parted at a batch's border


# Written texts


def prompts_of(rows: Rows) -> list[np.ndarray]:
    return [rows.sequences_of(row)[0] for row in range(len(rows))]


@pytest.mark.parametrize("kind", [*families.DECODERS, *families.SEQ2SEQ])
def test_texts_are_those_of_transformers_generate_one_by_one(kind: str, tmp_path: Path) -> None:
    task = make(tiny_model(kind, tmp_path))
    rows = encoded_rows.pack(task.encode(several()))
    model = shaken(task)
    how = writing.How(12, (2,), 0)
    with torch.inference_mode():
        written = writing.write(model, prompts_of(rows), how, [0] * len(rows))
        for prompt, one in zip(prompts_of(rows), written, strict=True):
            expected = model.backbone.generate(
                torch.from_numpy(prompt.astype(np.int64))[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=12,
                do_sample=False,
                use_cache=True,
                eos_token_id=2,
                pad_token_id=0,
            )[0].tolist()
            expected = expected[1:] if kind in families.SEQ2SEQ else expected[len(prompt) :]
            assert one.ids == expected and one.ended == (expected[-1] == 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_text_is_the_same_in_any_batch(tmp_path: Path, precision: str, temperature: float) -> None:
    model_folder = wide_model(tmp_path / "wide", "decoder")
    task = make(model_folder, "--max-length", "400")
    model = task.build().eval()
    rows = encoded_rows.pack(task.encode(several(13)))
    how = writing.How(10, (2,), 0, temperature, 0.9)
    found: dict[int, list[list[int]]] = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for size in (1, 3, 16):
            prompts = prompts_of(rows)
            pieces = [range(begin, min(begin + size, 13)) for begin in range(0, 13, size)]
            written = [writing.write(model, [prompts[r] for r in piece], how, [*piece]) for piece in pieces]
            found[size] = [one.ids for piece in written for one in piece]
    assert found[1] == found[3] == found[16]
    assert len({tuple(one) for one in found[1]}) > 3, "texts that are all alike prove nothing"


def test_tokens_that_another_comes_close_to_are_computed_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(tiny_model("llama", tmp_path))
    model = shaken(task)
    prompts = prompts_of(encoded_rows.pack(task.encode(several(4))))
    how = writing.How(6, (2,), 0)
    with torch.inference_mode():
        plain = writing.write(model, prompts, how, [0] * 4)
        monkeypatch.setattr(writing, "CLOSE", math.inf)  # all come close
        again = writing.write(model, prompts, how, [0] * 4)
    assert [one.again for one in again] == [True] * 4
    assert [one.ids for one in again] == [one.ids for one in plain]


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared")
def test_a_model_that_learned_to_write_ends_its_stories_and_runaways_are_capped() -> None:
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORIES)
    model = completers.CausalCompleter(base, []).eval()
    begin = [1, *tokenizer.encode("Once upon a time", add_special_tokens=False)]
    with torch.inference_mode():
        (capped,) = writing.write(model, [ids(*begin)], writing.How(20, (1,), 1), [0])
        (whole,) = writing.write(model, [ids(*begin)], writing.How(400, (1,), 1), [0])
    assert len(capped.ids) == 20 and not capped.ended
    assert whole.ended and whole.ids[-1] == 1 and whole.ids[:20] == capped.ids


# Refusals


def test_rows_whose_text_does_not_fit_are_named(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = [example(0), Example(**{**example(1), "target": "x" * 300})]  # type: ignore[typeddict-item]
    reasons = task.unusable(rows, lambda: None)
    # bytes: " " and 300 x and the end
    assert list(reasons) == ["1"] and "its text has 302 tokens and does not fit" in reasons["1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-new-tokens", "240"], "leaves no room for a prompt"),
        (["--chat"], "has no chat template"),
        (
            ["--template", "{chunk} {question}"],
            "unknown placeholder {chunk}; allowed are {chunks}, {question}",
        ),
        (["--template", "{chunks:>9}"], "unknown placeholder {chunks:>9}"),
        (["--template", "no field"], "every row would read the same"),
        (["--template", "{chunks"], "expected '}'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weight(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        make(tiny_model("llama", tmp_path), *flags).check()
    assert message in str(error.value)


def test_a_family_without_checked_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a bert; its texts have not been checked.*llama"):
        make(tiny_model("bert", tmp_path)).check()


def test_a_model_whose_outputs_are_no_numbers_writes_nothing(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode(several()))
    model = shaken(task)
    with torch.no_grad():
        model.backbone.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(RepeatsError, match="no finite numbers"):
        writing.write(model, prompts_of(rows), writing.How(12, (2,), 0), [0] * len(rows))


def test_writing_can_be_stopped_between_two_tokens(tmp_path: Path) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode(several()))
    world, calls = dist.setup(1, StopFlag(deaf=True)), []

    def asked() -> None:
        calls.append(None)
        if len(calls) == 3:
            world.stop.ask("SIGTERM")
        StopFlag.raise_if_requested(world.stop)

    model = shaken(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.stop, "raise_if_requested", asked)
        with pytest.raises(StoppedError):
            Predictor(task, model, world, 8192).predict(rows)
    assert len(calls) == 3
