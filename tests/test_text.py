"""Words to ids under a budget: what is kept, cut and counted, and no special token by accident."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.config import Config, DataConfig, ModelConfig, PairConfig
from lib.data import text
from lib.data.text import Budgeted, Specials
from lib.models import backbone, tiny
from lib.recipe import Example
from lib.tasks.classify import Classify
from tests.tools import SHARED

BERT = SHARED / "tokenizers" / "bert-base-uncased"
CONTEXT, TEXT = 1000, 5000  # the first id of each part, so that ids can be read below
FRAME = Specials(start=[1], separator=[2], pad=0)
CONTEXTS = [0, 1, 15, 16, 17, 18, 30]


def ids(first: int, size: int) -> np.ndarray:
    return np.arange(first, first + size, dtype=np.int32)


def fit(context: int | None, words: int, max_length: int) -> Budgeted:
    """A context and a text of so many tokens."""
    return text.fit(None if context is None else ids(CONTEXT, context), ids(TEXT, words), FRAME, max_length)


def slowly(context: int, words: int, max_length: int) -> tuple[int, int]:
    """Tokens of context and of text that stay: one token after the other goes, by the rule in words."""
    at_least = min(context, text.MIN_CONTEXT)
    while context + words + 3 > max_length:  # [CLS] and two [SEP]
        if context > at_least:
            context -= 1
        else:
            words -= 1
    return context, words


def tokenizer_of(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


# fit


@pytest.mark.parametrize("max_length", [20, 21, 35, 36, 37, 50])
def test_a_sequence_is_what_remains_when_tokens_go_one_by_one(max_length: int) -> None:
    for context in CONTEXTS:
        for words in range(0, 50):
            kept_context, kept_words = slowly(context, words, max_length)
            expected = [1, *ids(CONTEXT + context - kept_context, kept_context), 2, *ids(TEXT, kept_words), 2]
            found = fit(context, words, max_length)
            assert found.ids.tolist() == expected, (context, words)
            assert (found.context_cut, found.text_cut) == (context - kept_context, words - kept_words)
            assert len(found.ids) == min(max_length, context + words + 3)
            assert found.ids.dtype == np.int32


@pytest.mark.parametrize(("words", "cut"), [(46, 0), (47, 0), (48, 1)])
def test_the_context_loses_its_beginning_only_when_there_is_no_room(words: int, cut: int) -> None:
    # 100 tokens: [CLS], 50 of context, [SEP], 47 of text, [SEP]
    found = fit(50, words, 100)
    assert (found.context_cut, found.text_cut) == (cut, 0)
    assert found.ids[1 : 51 - cut].tolist() == ids(CONTEXT + cut, 50 - cut).tolist()


@pytest.mark.parametrize(("words", "cut"), [(80, 0), (81, 0), (82, 1)])
def test_the_text_loses_its_end_only_when_16_tokens_of_context_are_left(words: int, cut: int) -> None:
    # 100 tokens: [CLS], 16 of context, [SEP], 81 of text, [SEP]
    found = fit(50, words, 100)
    assert found.text_cut == cut
    assert found.context_cut == 50 - max(16, 97 - words)
    assert found.ids[-2] == TEXT + words - cut - 1


@pytest.mark.parametrize("context", [15, 16, 17])
def test_at_least_16_tokens_of_context_stay_beside_an_endless_text(context: int) -> None:
    found = fit(context, 10**6, 64)
    # 64 - 3 = 61 tokens of room; the context keeps its last min(context, 16)
    kept = min(context, 16)
    assert found.ids[1 : 1 + kept].tolist() == ids(CONTEXT + context - kept, kept).tolist()
    assert (found.context_cut, found.text_cut) == (context - kept, 10**6 - (61 - kept))


@pytest.mark.parametrize(("words", "cut"), [(17, 0), (18, 0), (19, 1)])
def test_without_a_context_there_is_one_separator_less(words: int, cut: int) -> None:
    # 20 tokens: [CLS], 18 of text, [SEP]
    found = fit(None, words, 20)
    assert found.ids.tolist() == [1, *ids(TEXT, words - cut), 2]
    assert (found.context_cut, found.text_cut) == (0, cut)


def test_an_empty_context_keeps_its_separator_and_an_empty_text_its_frame() -> None:
    assert fit(0, 2, 20).ids.tolist() == [1, 2, TEXT, TEXT + 1, 2]
    assert fit(None, 0, 20).ids.tolist() == [1, 2]
    assert fit(2, 0, 20).ids.tolist() == [1, CONTEXT, CONTEXT + 1, 2, 2]


def test_a_tokenizer_without_a_start_token_has_one_place_more() -> None:
    found = text.fit(ids(CONTEXT, 30), ids(TEXT, 30), Specials([], [2], 0), 40)
    # 40 - 2 separators = 38: all 30 of the text would leave 8 of context, so 16 stay and the text has 22
    assert found.ids.tolist() == [*ids(CONTEXT + 14, 16), 2, *ids(TEXT, 22), 2]


def test_the_smallest_length_leaves_one_token_of_text() -> None:
    assert text.smallest_length(FRAME) == 20  # [CLS], 16, [SEP], 1, [SEP]
    assert fit(50, 50, 20).text_cut == 49


def test_turns_are_joined_by_the_separator() -> None:
    turns = [ids(10, 2), ids(20, 0), ids(30, 1)]
    joined = text.join_turns(turns, [2])
    assert (joined.tolist(), joined.dtype) == ([10, 11, 2, 2, 30], np.int32)
    assert text.join_turns(turns[:1], [2]).tolist() == [10, 11]
    assert text.join_turns([], [2]).tolist() == []


# special tokens


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"cls": 5, "sep": 6, "pad": 7, "bos": 8, "eos": 9}, Specials([5], [6], 7)),
        ({"bos": 8, "eos": 9, "pad": 0}, Specials([8], [9], 0)),
        ({"bos": 0, "eos": 0}, Specials([0], [0], 0)),  # ids that are 0 are ids; no padding: the separator
        ({"eos": 1, "pad": 0}, Specials([], [1], 0)),
    ],
)
def test_the_frame_is_what_the_tokenizer_has(words: dict[str, int], expected: Specials) -> None:
    class Named:
        pass

    named = Named()
    for word in ("cls", "sep", "pad", "bos", "eos"):
        setattr(named, f"{word}_token_id", words.get(word))
    assert text.specials_of(named) == expected


def test_a_tokenizer_without_any_separator_is_refused() -> None:
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="neither a separator nor an end token; use another --model"):
        text.specials_of(transformers.PreTrainedTokenizerFast(tokenizer_object=backend))


def test_the_tiny_tokenizer_has_one_id_a_byte() -> None:
    # 4 specials, then the byte alphabet in order, "!" (33) first: "a" (97) is 4 + 97 - 33 = 68
    tokenizer = text.prepare_tokenizer(tiny.tokenizer())
    assert text.specials_of(tokenizer) == Specials([1], [2], 0)
    assert [found.tolist() for found in text.tokenize(tokenizer, ["abc", "", "!a"])] == [
        [68, 69, 70],
        [],
        [4, 68],
    ]
    assert len(text.tokenize(tokenizer, ["\u00fc \U0001f600"])[0]) == 2 + 1 + 4  # bytes of each sign
    everything = text.tokenize(tokenizer, ["".join(map(chr, range(0x250)))])[0]
    assert everything.min() >= len(tiny.SPECIALS)


SPELLED = ["[SEP]", "a [SEP] b", "[CLS][PAD]", "[UNK] [MASK]", "</s> <s> <pad> <unk>"]


def unigram() -> Any:
    """Like deberta-v3's tokenizer: the special tokens stand among the ordinary pieces."""
    import tokenizers
    import transformers

    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *"abcdefghijklmnopqrstuvwxyzSEPCLDAMK[]<>/ "]
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, 0.0) for piece in dict.fromkeys(pieces)], 3)
    )
    names = {f"{word}_token": f"[{word.upper()}]" for word in ("pad", "cls", "sep", "unk", "mask")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("name", ["tiny", "unigram", "bert-base-uncased", "t5"])
def test_a_special_token_spelled_in_a_text_stays_text(name: str) -> None:
    made_here = {"tiny": tiny.tokenizer, "unigram": unigram}
    folder = SHARED / "tokenizers" / name
    if name not in made_here and not folder.is_dir():
        pytest.skip(f"needs ../shared/data/tokenizers/{name}")
    tokenizer = made_here[name]() if name in made_here else tokenizer_of(folder)
    framing = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    raw = {i for words in SPELLED for i in tokenizer(words, add_special_tokens=False)["input_ids"]}
    assert raw & framing  # unprepared it does read them
    for words, found in zip(SPELLED, text.tokenize(text.prepare_tokenizer(tokenizer), SPELLED), strict=True):
        assert len(found)
        assert not framing & set(found.tolist()), words


def test_a_spelled_special_token_keeps_its_letters_where_the_vocabulary_can_write_it() -> None:
    # byte b has the id 4 + b - 33: "[" 91, "S" 83, "E" 69, "P" 80, "]" 93
    (found,) = text.tokenize(text.prepare_tokenizer(tiny.tokenizer()), ["[SEP]"])
    assert found.tolist() == [62, 54, 40, 51, 64]


@pytest.mark.skipif(not BERT.is_dir(), reason="needs ../shared/data/tokenizers/bert-base-uncased")
def test_ids_are_those_of_transformers_without_special_tokens() -> None:
    tokenizer = tokenizer_of(BERT)
    words = ["The sun evaporates water.", "", "unbelievable!", "caf\u00e9 \u4f60\u597d " * 300]
    expected = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert [ids.tolist() for ids in text.tokenize(text.prepare_tokenizer(tokenizer), words)] == expected


def test_padding_and_truncation_of_a_tokenizer_file_are_switched_off() -> None:
    # MiniLM's tokenizer.json pads to 128 and cuts at 128
    described = backbone.describe(ModelConfig(model="minilm"), "encoder")
    raw = tokenizer_of(Path(described.source))
    assert len(raw.backend_tokenizer.encode("short").ids) == 128
    short, long = text.tokenize(described.tokenizer, ["short", "word " * 300])
    assert (len(short), len(long)) == (1, 300)


def test_half_an_emoji_and_nul_are_tokenized() -> None:
    tokenizer = text.prepare_tokenizer(tiny.tokenizer())
    half, question, nul = text.tokenize(tokenizer, ["a\ud83d", "a?", "a\x00"])
    assert half.tolist() == question.tolist()
    assert len(nul) == 2


@pytest.mark.parametrize("num_texts", [0, 1, 255, 256, 257, 513])
def test_texts_keep_their_order_and_a_stop_is_seen_between_chunks(num_texts: int) -> None:
    tokenizer = text.prepare_tokenizer(tiny.tokenizer())
    asked: list[int] = []
    found = text.tokenize(tokenizer, ["a" * (i % 7) for i in range(num_texts)], lambda: asked.append(1))
    assert [len(ids) for ids in found] == [i % 7 for i in range(num_texts)]
    assert len(asked) == -(-num_texts // 256)


# encode


def classify(max_length: int, prompt: bool = True) -> Classify:
    config = Config(
        data=DataConfig(max_length=max_length),
        task=PairConfig(prompt=prompt),
        model=ModelConfig(model="tiny"),
    )
    return Classify(recipes.load("arena"), config, backbone.describe(config.model, "encoder"))


def row(prompt: list[str], first: list[str], second: list[str]) -> Example:
    return Example(id="x", group="g", context=prompt, texts=[first, second], label=1, notes=[])


def test_each_text_is_encoded_after_its_own_copy_of_the_context() -> None:
    # ids of the tiny tokenizer: "a" is 68, "b" 69, "p" 83, "q" 84
    (found,) = classify(64).encode([row(["p", "q"], ["a", "aa"], ["b"])])
    assert [ids.tolist() for ids in found.sequences] == [
        [1, 83, 2, 84, 2, 68, 2, 68, 68, 2],
        [1, 83, 2, 84, 2, 69, 2],
    ]
    assert (found.id, found.label, found.num_targets) == ("x", 1, 1)


def test_without_prompts_the_context_is_not_even_tokenized() -> None:
    (found,) = classify(64, prompt=False).encode([row(["p" * 500], ["a"], ["b"])])
    assert [ids.tolist() for ids in found.sequences] == [[1, 68, 2], [1, 69, 2]]


def test_cut_prompts_are_counted_by_row_and_cut_responses_by_text() -> None:
    # 40 tokens: 37 beside the frame; 20 of prompt leave 17, and down to 16 of prompt leave 21
    task = classify(40)
    task.encode(
        [
            row(["p" * 20], ["a" * 17], ["b" * 17]),  # all fits
            row(["p" * 20], ["a" * 18], ["b" * 18]),  # both lose prompt: one row
            row(["p" * 20], ["a" * 21], ["b"]),  # one loses prompt
            row(["p" * 20], ["a" * 22], ["b" * 23]),  # and two responses are cut
            row(["p" * 9], ["a" * 29], ["b"]),  # a short prompt stays whole: one response
        ]
    )
    assert task.counts == {"contexts cut": 3, "texts cut": 3}


@pytest.mark.parametrize(
    ("max_length", "words"), [(19, "use at least 20"), (20, ""), (512, ""), (513, "at most 512")]
)
def test_a_length_that_the_model_or_the_frame_cannot_take_is_refused(max_length: int, words: str) -> None:
    task = classify(max_length)
    if not words:
        task.check()
        return
    with pytest.raises(ValueError, match=f"--max-length {max_length} .*{words}"):
        task.check()


def test_the_fingerprint_sees_a_change_of_the_vocabulary() -> None:
    first, second = tiny.tokenizer(), tiny.tokenizer()
    assert text.fingerprint(first) == text.fingerprint(second)
    second.add_tokens(["new"])
    assert text.fingerprint(first) != text.fingerprint(second)
