"""The task choose: what each kind of model reads, and that sharing a prefix changes nothing."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import recipe
from lib.command_line import parse
from lib.data import rows as encoded_rows
from lib.data import text
from lib.data.options import Asked, OptionReader
from lib.data.tree import PADDING, plant
from lib.models import backbone, freezing, heads, language, placement
from lib.recipe import Example
from lib.tasks import choose, families
from lib.tasks import make as make_task

EXAM = recipe.load("science_exam")


def example(
    number: int, options: int = 4, context: str | None = "It is blue. It was found in Chile."
) -> Example:
    words = ("red", "blue as the deep sea", "green", "white or grey", "black")[:options]
    found = Example(
        id=str(number), group=str(number), question=f"What colour is thing {number}?", options=[*words]
    )
    found["label"] = number % options
    if context is not None:
        found["context"] = [context * (1 + number % 3)]
    return found


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_continuations_see_the_prefix_and_themselves_alone() -> None:
    trees = plant([[ids(7, 8), ids(10, 11), ids(20)]], pad=0)
    (tree,) = trees.groups
    assert tree.ids.tolist() == [[7, 8, 10, 11, 20]]
    assert tree.positions.tolist() == [[0, 1, 2, 3, 2]]  # both continuations begin at place 2
    assert tree.mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # 20 sees 7 and 8 and itself, not 10 and 11
    ]
    assert trees.predictors.tolist() == [1, 2, 1]  # 10 follows 8, 11 follows 10, 20 follows 8
    assert trees.options.targets.tolist() == [10, 11, 20]
    assert trees.options.option_of.tolist() == [0, 0, 1] and trees.options.place_of.tolist() == [0, 1, 0]


def test_rows_of_one_tensor_find_their_own_states() -> None:
    short, long = [ids(1), ids(2), ids(3)], [ids(4, 5), ids(6), ids(7)]
    trees = plant([short, long], pad=0)
    (tree,) = trees.groups  # the longer row first, as groups are sorted
    assert tree.ids.tolist() == [[4, 5, 6, 7], [1, 2, 3, 0]]
    assert tree.parts[1].tolist() == [0, 1, 2, 0] and tree.documents[1].tolist() == [0, 0, 0, PADDING]
    # row `short` stands second: its prefix is at 4, and both its options follow it; `long`'s ends at 1
    assert trees.predictors.tolist() == [4, 4, 1, 1]
    assert trees.widths.by_row == (2, 2)
    assert (trees.amounts.real_tokens, trees.computed_tokens) == (7, 8)


def make(model: str, *flags: str) -> choose.Choose:
    words = ["--model", model, "--init", "random", "--precision", "fp32", "--max-length", "120", *flags]
    return make_task(EXAM, parse(EXAM.config, words, "test"))  # type: ignore[return-value]


def tiny_model(kind: str, folder: Path) -> str:
    """A random model of a family, its tokenizer beside it."""
    import transformers

    from lib.models import tiny

    tokenizer = tiny.tokenizer()
    # 4 words to spare: transformers adds one to the tokenizer of some families
    sizes: Any = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256, "head_dim": 16}
    if kind in families.SEQ2SEQ:
        sizes = {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "d_model": 64, "d_kv": 16}
        sizes |= {"d_ff": 128, "decoder_start_token_id": 0}
    if kind == "phi3":
        sizes["original_max_position_embeddings"] = 256
    specials = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 4, **specials, **sizes)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def by_hand(task: choose.Choose, model: Any, sequences: list[np.ndarray]) -> list[float]:
    """Each option's mean log-probability by transformers' own forward, one sequence an option."""
    prefix, *options = (torch.from_numpy(each.astype(np.int64)) for each in sequences)
    found = []
    for option in options:
        if task.kind == "causal":
            logits = model.backbone(input_ids=torch.cat([prefix, option])[None], use_cache=False).logits[0]
            logits = logits[len(prefix) - 1 : -1]
        else:
            logits = model.backbone(input_ids=prefix[None], labels=option[None]).logits[0]
        found.append(-F.cross_entropy(logits.float(), option))
    return found


@pytest.mark.parametrize("kind", [*families.DECODERS, *families.SEQ2SEQ])
def test_scores_and_gradients_equal_one_sequence_per_option(kind: str, tmp_path: Path) -> None:
    task = make(tiny_model(kind, tmp_path))
    task.check()
    examples = [example(number, 2 + number % 4) for number in range(5)]  # 2 to 5 options, odd lengths
    rows = encoded_rows.pack(task.encode(examples))
    torch.manual_seed(0)
    model = task.build().eval()
    for parameter in model.parameters():  # norms and biases begin at 1 and 0, which hides what they do
        parameter.data += 0.05 * torch.randn_like(parameter)
    placement.attend(model)
    batch = task.collate(rows, tuple(range(5)))
    shared = model(batch.inputs)
    alone = [torch.stack(by_hand(task, model, rows.sequences_of(row))) for row in range(5)]
    for row, scores in enumerate(alone):
        assert torch.allclose(shared[row, : len(scores)], scores, atol=1e-5)
        assert shared[row, len(scores) :].eq(-math.inf).all()
    losses = [F.cross_entropy(scores[None], batch.labels[row : row + 1]) for row, scores in enumerate(alone)]
    loss, expected = task.loss(shared, batch), torch.stack(losses).sum()
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first, other = (
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(each, parameters, allow_unused=True) if g is not None]
        )
        for each in (loss, expected)
    )
    assert (first - other).norm() / other.norm() < 1e-5


def test_summed_scores_are_means_times_tokens(tmp_path: Path) -> None:
    name = tiny_model("llama", tmp_path)
    mean, total = make(name), make(name, "--option-score", "sum")
    rows = encoded_rows.pack(mean.encode([example(1)]))
    model, other = mean.build().eval(), total.build().eval()
    inputs = mean.collate(rows, (0,)).inputs
    sizes = torch.tensor([len(ids) for ids in rows.sequences_of(0)[1:]])
    assert torch.allclose(model(inputs) * sizes, other(inputs), rtol=1e-5)


def test_pieces_of_the_output_layer_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tiny_model("llama", tmp_path))
    rows = encoded_rows.pack(task.encode([example(number) for number in range(3)]))
    model, batch = task.build().eval(), task.collate(rows, (0, 1, 2))
    grads = []
    for most in (language.MOST_LOGITS, 7 * len(task.tokenizer)):  # all at once; seven tokens at a time
        monkeypatch.setattr(language, "MOST_LOGITS", most)
        model.zero_grad()
        task.loss(model(batch.inputs), batch).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (grads[0] - grads[1]).norm() / grads[0].norm() < 1e-6


def decoded(task: choose.Choose, found: np.ndarray) -> str:
    return task.tokenizer.decode(found.tolist())


def test_encoder_reads_context_separator_question_and_option() -> None:
    task = make("tiny")
    row = task.encode([example(0, 2)])[0]
    assert [decoded(task, ids) for ids in row.sequences] == [
        "[CLS]It is blue. It was found in Chile.[SEP]What colour is thing 0? red[SEP]",
        "[CLS]It is blue. It was found in Chile.[SEP]What colour is thing 0? blue as the deep sea[SEP]",
    ]
    assert decoded(task, task.encode([example(0, 2, context=None)])[0].sequences[0]) == (
        "[CLS]What colour is thing 0? red[SEP]"
    )


def test_decoder_reads_context_and_question_once() -> None:
    task = make_task(dataclasses.replace(EXAM, family="decoder"), make("tiny").config)
    row = task.encode([example(0, 2)])[0]
    assert [decoded(task, ids) for ids in row.sequences] == [
        "[CLS]It is blue. It was found in Chile.\n\nQuestion: What colour is thing 0?\nAnswer:",
        " red",
        " blue as the deep sea",
    ]


def test_context_gives_way_the_same_for_all_options_and_is_counted() -> None:
    task = make("tiny", "--max-length", "50")
    row = task.encode([example(0, 2)])[0]
    # 50 tokens, one a byte: 3 special, 23 of question, 21 of the longest option (" blue as the deep sea")
    assert [decoded(task, ids) for ids in row.sequences] == [
        "[CLS]It [SEP]What colour is thing 0? red[SEP]",
        "[CLS]It [SEP]What colour is thing 0? blue as the deep sea[SEP]",
    ]
    assert task.counts == {
        "contexts cut": 1,
        "context tokens cut": 31,
        "questions cut": 0,
    }  # 34 letters, 3 stay


def test_question_and_options_are_never_cut() -> None:
    long = [example(0, 2), example(1, 2), example(2, 1)]
    long[1]["options"] = ["blue as the deep sea!!", "red"]
    words = r"more than the 46 tokens of --max-length in 2 rows \(row 0 takes 47, row 1 takes 49\); .*"
    with pytest.raises(ValueError, match=words + "use --max-length 49 or take them out"):
        make("tiny", "--max-length", "46").encode(long)
    assert len(make("tiny", "--max-length", "47").encode([example(0, 2)])[0].sequences[1]) == 47


def test_a_row_that_must_be_answered_is_read_up_to_what_the_model_takes() -> None:
    task = make("tiny", "--max-length", "46")
    limit = task.described.max_positions
    assert limit is not None
    row, longer = example(0, 2), example(1, 2)
    longer["question"] = "why? " * limit
    (fits, cut) = task.encode([row, longer], refuse=False)
    assert len(fits.sequences[1]) == 46 and decoded(task, fits.sequences[0]).endswith("thing 0? red[SEP]")
    assert max(map(len, cut.sequences)) == limit and decoded(task, cut.sequences[0]).startswith("[CLS]why? ")
    assert task.counts["questions cut"] == 1


DATA = Path(__file__).parents[2] / "shared/data"
FAMILIES = ("llama-2", "mistral-7b-v0.1", "gpt-neox-20b", "../models/stories260K")


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("length", [4096, 160])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_reads_what_one_piece_of_text_would_be(family: str, length: int) -> None:
    """Real questions with real contexts; whole and with contexts that have to give way."""
    import transformers

    tokenizer = text.prepare_tokenizer(
        transformers.AutoTokenizer.from_pretrained(DATA / "tokenizers" / family)
    )
    lines = (DATA / "llm_science_exam/with_context.train.jsonl").read_text().splitlines()[:40]
    rows = [EXAM.to_example(json.loads(line)) for line in lines]
    template = choose.QUESTION["causal"]
    asked = [Asked(row["context"], template.format(row["question"]), row["options"]) for row in rows]
    num_cut, start = 0, text.specials_of(tokenizer).start
    for row, read in zip(asked, OptionReader(tokenizer, "causal", length).read(asked), strict=True):
        prefix, *options = read.sequences
        if read.needed > length:
            continue  # question and options alone are longer
        for option, words in zip(options, row.options, strict=True):
            ids = [*prefix, *option]
            assert len(ids) <= length and len(option) > 0
            assert ids[: len(start)] == start
            # the context that is left is what stands before the question
            left = row.context[0]
            if read.cut:
                num_cut += 1
                decoded = tokenizer.decode(ids[len(start) :], clean_up_tokenization_spaces=False)
                left = decoded.removesuffix(f"{row.question} {words}")
                assert row.context[0].startswith(left)
            whole = f"{left}{row.question} {words}"
            assert tokenizer(whole, add_special_tokens=False)["input_ids"] == ids[len(start) :]
    assert num_cut > 0 or length == 4096


def test_order_is_by_score_and_equal_options_keep_their_order(tmp_path: Path) -> None:
    task = make("tiny")
    same = example(0, 3)
    same["options"] = ["red", "blue", "red"]
    rows = encoded_rows.pack(task.encode([same, example(1, 5)]))
    (first, second) = task.predict(task.build().eval(), task.collate(rows, (0, 1)))
    assert first["probabilities"][0] == first["probabilities"][2]
    assert first["order"].index(0) < first["order"].index(2)
    assert sorted(second["order"]) == [0, 1, 2, 3, 4]
    assert len(first["probabilities"]) == 3 and math.isclose(sum(first["probabilities"]), 1, rel_tol=1e-6)


def test_unknown_families_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a bloom; its option scores have not been checked.*llama"):
        make(tiny_model("bloom", tmp_path)).check()


def test_describe_names_every_kind() -> None:
    assert set(choose.QUESTION) == set(backbone.AUTO_CLASSES)


def test_bottom_of_a_language_model_has_its_embeddings(tmp_path: Path) -> None:
    model: Any = make(tiny_model("llama", tmp_path)).build(None).backbone
    freezing.freeze(model, "bottom")
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    expected = ("model.embed_tokens.", "model.layers.0.")  # of two blocks
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    assert any(name.startswith("model.embed_tokens.") for name in frozen)


def test_scores_of_a_small_head_keep_their_digits_under_autocast() -> None:
    head = heads.new_head(16, 16, 1, seed=0)
    vectors = torch.randn(1, 16) + 1e-3 * torch.randn(200, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heads.in_float32(head, vectors)
        rounded = head(vectors)
    assert torch.equal(found, head(vectors)) and found.dtype == torch.float32
    assert len(set(found.flatten().tolist())) > 190 > len(set(rounded.flatten().tolist()))
