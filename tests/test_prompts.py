"""Prompts and what is to be written behind them, token by token: tokens are bytes and signs, so both can be
read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.command_line import parse
from lib.data import rows as encoded_rows
from lib.data import text
from lib.data.prompts import Asked, PromptReader, Read, Template
from lib.models import tiny
from lib.recipe import Example
from lib.tasks import make as make_task
from tests.test_choose import tiny_model
from tests.tools import SHARED

TOKENIZERS = SHARED / "tokenizers"
FIELDS = ("chunks", "question")

# Chat templates as models have them

LLAMA_2 = """{% for message in messages %}\
{% if message.role == 'user' %}\
{% set system = '<<SYS>>\\nAntworte.\\n<</SYS>>\\n\\n' if loop.first else '' %}\
{{ bos_token + '[INST] ' + system + message.content.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
CHATML = """{% for message in messages %}\
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
ZEPHYR = """{% for message in messages %}\
{{ '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
LLAMA_3 = """{{ bos_token }}{% for message in messages %}\
{{ '<|head|>' + message.role + '<|/head|>\\n\\n' + message.content | trim + '<|eot|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"""
# signs before the words, and an end behind the end
SIGNS = """{% for message in messages %}\
{% if message.role == 'user' %}{{ message.content + '<|eot|>' }}{% else %}\
{{ '<|head|><|/head|>' + message.content + '<|eot|>' + eos_token + '\\n' }}{% endif %}{% endfor %}"""
# no sign ends a turn
PLAIN = """{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""
# the turns are counted before the first; a turn is announced in another way than it is written; nothing is
DATED = "{{ 'Turns: ' ~ messages | length ~ '\\n' }}" + CHATML
OTHERWISE = CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>bot\\n'")
SILENT = CHATML.replace("messages %}", "messages if message.role == 'user' %}")
MUTE = SILENT.partition("{% if add_generation_prompt")[0]
REFUSING = "{{ raise_exception('a system turn is needed') }}"

ADDED = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "[INST]"]


def chat(template: str, added: Sequence[str] = ADDED) -> Any:
    """The toy's tokenizer with signs of chats, of which only start and end have names."""
    import tokenizers

    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([tokenizers.AddedToken(sign, special=True, normalized=False) for sign in added])
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = template
    return text.prepare_tokenizer(tokenizer)


def reader(
    tokenizer: Any, template: str = "{question}", room: Callable[[int], int] = lambda _: 500
) -> PromptReader:
    parsed = Template.parse(template, FIELDS, "the prompt")
    return PromptReader(tokenizer, parsed, ("chunks",), room, chat=tokenizer.chat_template is not None)


def tokens(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Each token by itself: a sign, or the character of one byte."""
    return [tokenizer.decode([number]) for number in ids]


def asked(question: str, answer: str | None, *chunks: str) -> Asked:
    return Asked({"chunks": [*chunks], "question": [question]}, answer)


CHATS = {
    "llama-2": (
        LLAMA_2,
        ["<s>", "[INST]", *" <<SYS>>\nAntworte.\n<</SYS>>\n\nWas? [/INST]"],
        [*" Blau.", " ", "</s>"],
    ),
    "chatml": (
        CHATML,
        ["<|im_start|>", *"user\nWas?", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"],
        [*"Blau.", "<|im_end|>"],
    ),
    "zephyr": (ZEPHYR, [*"<|user|>\nWas?", "</s>", *"\n<|assistant|>\n"], [*"Blau.", "</s>"]),
    "llama-3": (
        LLAMA_3,
        [
            "<s>",
            "<|head|>",
            *"user",
            "<|/head|>",
            *"\n\nWas?",
            "<|eot|>",
            "<|head|>",
            *"assistant",
            "<|/head|>",
            *"\n\n",
        ],
        [*"Blau.", "<|eot|>"],
    ),
    "signs": (SIGNS, [*"Was?", "<|eot|>"], ["<|head|>", "<|/head|>", *"Blau.", "<|eot|>"]),
    "plain": (PLAIN, [*"user: Was?\nassistant: "], [*"Blau.\n", "</s>"]),
}


@pytest.mark.parametrize("name", CHATS)
def test_the_assistants_words_and_their_end_are_written_and_nothing_else(name: str) -> None:
    template, prompt, completion = CHATS[name]
    tokenizer = chat(template)
    (row,) = reader(tokenizer).read([asked("Was?", "Blau.")])
    assert tokens(tokenizer, row.prompt) == prompt
    assert tokens(tokenizer, row.completion) == completion
    # to predict, the same is read, and an end alone is laid out
    (row,) = reader(tokenizer).read([asked("Was?", None)])
    assert tokens(tokenizer, row.prompt) == prompt and tokens(tokenizer, row.completion) == ["</s>"]


@pytest.mark.parametrize("name", CHATS)
def test_a_sign_in_a_rows_words_is_only_words(name: str) -> None:
    tokenizer, sly = chat(CHATS[name][0]), "".join([*ADDED, "</s>", "<s>", "[PAD]", "[UNK]", "[SEP]"])
    row, plain = reader(tokenizer).read([asked(f"Was{sly}?", f"Blau{sly}."), asked("Was?", "Blau.")])
    for ids, of_template in ((row.prompt, plain.prompt), (row.completion, plain.completion)):
        signs = [
            [number for number in each if number in text.signs_of(tokenizer).values()]
            for each in (ids.tolist(), of_template.tolist())
        ]
        assert signs[0] == signs[1]
    read = "".join(tokens(tokenizer, row.completion))
    assert "< |im_end|>" in read and "< /s>" in read and read.index(".") > read.index("[ SEP]")


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("answer", [" Blau.\n", "Ä 😀", "x" * 400, "a\0b", "שלום", "{{ 7 * 7 }}", "x\ud800"])
def test_any_answer_is_written_whole(name: str, answer: str) -> None:
    tokenizer = chat(CHATS[name][0])
    (row,) = reader(tokenizer).read([asked("Was?", answer)])
    learned = answer.strip().encode("utf-8", "replace").decode()
    ids = [number for number in row.completion.tolist() if number not in text.signs_of(tokenizer).values()]
    assert tokenizer.decode(ids).strip() == learned
    ends = [number for number in row.completion[2:].tolist() if number in text.ends_of(tokenizer)]
    assert ends == [row.completion[-1]], "one end, the last token"


@pytest.mark.parametrize(
    ("template", "seen"),
    [
        # the prompt, the whole, and where they part: behind "Turns: "; behind "<|im_start|>", a turn that has
        # 32 characters itself; where the whole is at its end
        (DATED, r"'Turns: 1\\n<\|im_start\|>user.* becomes 'Turns: 2\\n<\|im_start\|>user.* at character 7;"),
        (OTHERWISE, r"bot\\n' becomes '.*assistant.* at character 44;"),
        (SILENT, r"<\|im_start\|>assistan' becomes 'user\\nWas\?<\|im_end\|>\\n' at character 32;"),
        (MUTE, r"Was\?<\|im_end\|>\\n' becomes 'user\\nWas\?<\|im_end\|>\\n' at character 32;"),
    ],
)
def test_a_template_that_does_not_write_an_answer_behind_its_prompt_is_refused(
    template: str, seen: str
) -> None:
    with pytest.raises(ValueError, match=f"does not write an answer behind what asks for it: .*{seen}"):
        reader(chat(template)).read([asked("Was?", "Blau.")])


def test_a_template_that_writes_the_date_writes_the_same_one_on_any_day() -> None:
    dated = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}" + CHATML
    tokenizer = chat(dated)
    (row,) = reader(tokenizer).read([asked("Was?", "Blau.")])
    assert tokenizer.decode(row.prompt.tolist()).startswith("Today: 26 Jul 2024\n<|im_start|>user")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            CHATML.replace("message.content", "message.content[:4]"),
            "changes an answer: 'Blau.' becomes 'Blau",
        ),
        (CHATML.replace("message.content", "message.content | upper"), "changes what is asked"),
        (CHATML.replace("message.content", "''"), "changes what is asked"),
        (CHATML.replace("message.content", "1 / 0"), "refuses a row: .*zero; leave --chat out"),
    ],
)
def test_a_template_that_does_not_write_the_words_is_refused(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reader(chat(template)).read([asked("Was?", "Blau.")])


def test_a_template_that_refuses_a_row_says_why() -> None:
    for answer in ("Blau.", None):
        with pytest.raises(ValueError, match="refuses a row: a system turn is needed; leave --chat out"):
            reader(chat(REFUSING)).read([asked("Was?", answer)])


def test_what_is_unknown_in_an_answer_is_no_end() -> None:
    """A tokenizer of words that does not know all of them."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "user", "assistant", ":", "Was", "Blau", "alt"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = ZEPHYR.replace("'<|' + message.role + '|>\\n'", "message.role + ' : '").replace(
        "<|assistant|>\\n", "assistant : "
    )
    (row,) = reader(text.prepare_tokenizer(tokenizer)).read([asked("Was", "Blau grün alt")])
    assert [words[number] for number in row.completion] == ["Blau", "<unk>", "alt", "</s>"]


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="needs ../shared/data/tokenizers")
@pytest.mark.parametrize(
    ("name", "template", "end"),
    [
        ("llama-2", LLAMA_2, "</s>"),
        ("mistral-7b-v0.3", LLAMA_2, "</s>"),
        (
            "llama-3",
            LLAMA_3.replace("<|head|>", "<|start_header_id|>")
            .replace("<|/head|>", "<|end_header_id|>")
            .replace("<|eot|>", "<|eot_id|>"),
            "<|eot_id|>",
        ),
    ],
)
def test_real_tokenizers_end_an_answer_once_and_write_it_whole(name: str, template: str, end: str) -> None:
    import transformers

    tokenizer = text.prepare_tokenizer(transformers.AutoTokenizer.from_pretrained(TOKENIZERS / name))
    tokenizer.chat_template = template
    answers = ["Blau. (Quelle: a-1)", "Größe 😀", f"a {end} b", "<unk> x"]
    for row, answer in zip(
        reader(tokenizer).read([asked("Was?", one) for one in answers]), answers, strict=True
    ):
        assert tokenizer.convert_ids_to_tokens([int(row.completion[-1])]) == [end]
        assert not set(row.completion[:-1].tolist()) & set(text.signs_of(tokenizer).values())
        spaced = answer.replace(end, f"{end[0]} {end[1:]}").replace(
            "<unk>", "< unk>" if name != "llama-3" else "<unk>"
        )
        assert tokenizer.decode(row.completion[:-1].tolist()).strip() == spaced
        whole = np.concatenate([row.prompt, row.completion])
        assert tokenizer.decode(whole.tolist()).count(tokenizer.bos_token) == 1


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="needs ../shared/data/tokenizers")
def test_a_token_that_is_both_end_and_unknown_ends() -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZERS / "gpt-neox-20b")
    assert tokenizer.unk_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token_id in text.ends_of(tokenizer)


# Without a chat template


def plain() -> Any:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return text.prepare_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("template", "prompt", "completion"),
    [
        ("{question}\nAntwort:", [*"Was?\nAntwort:"], [*" Blau.", "</s>"]),
        # a template that ends with white space has the blank already
        ("{question}\nAntwort: ", [*"Was?\nAntwort: "], [*"Blau.", "</s>"]),
        ("{{{question}}}", [*"{Was?}"], [*" Blau.", "</s>"]),
        ("{chunks}|{question}|{chunks}", [*"a\nb|Was?|a\nb"], [*" Blau.", "</s>"]),
    ],
)
def test_a_text_follows_its_prompt_behind_one_blank(
    template: str, prompt: list[str], completion: list[str]
) -> None:
    tokenizer = plain()
    (row,) = reader(tokenizer, template).read([asked("Was?", " Blau. ", "a", "b")])
    # the toy begins with [CLS], as a model with a start token begins with that
    assert tokens(tokenizer, row.prompt) == ["[CLS]", *prompt]
    assert tokens(tokenizer, row.completion) == completion


def test_signs_in_words_are_words_without_a_chat_template_too() -> None:
    tokenizer = plain()
    (row,) = reader(tokenizer).read([asked("a</s>[SEP]<s>", "b</s>c")])
    assert tokens(tokenizer, row.prompt) == ["[CLS]", *"a</s>[SEP]<s>"]
    assert tokens(tokenizer, row.completion) == [*" b</s>c", "</s>"]


NAMED = "allowed are {chunks}, {question} (a brace itself is typed twice)"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "no placeholder, so every row would read the same"),
        ("{{chunks}}", "no placeholder, so every row would read the same"),
        ("{}", "unknown placeholder {}"),
        ("{0}", "unknown placeholder {0}"),
        ("{Chunks}", "unknown placeholder {Chunks}"),
        ("{chunks }", "unknown placeholder {chunks }"),
        ("{chunks.text}", "unknown placeholder {chunks.text}"),
        ("{chunks[0]}", "unknown placeholder {chunks[0]}"),
        ("{chunks!r}", "unknown placeholder {chunks!r}"),
        ("{chunks:9}", "unknown placeholder {chunks:9}"),
        ("{chunks:{question}}", "unknown placeholder {chunks:{question}}"),
        ("{question} {title}", "unknown placeholder {title}"),
        ("{chunks", "expected '}' before end of string"),
        ("chunks}", "Single '}' encountered in format string"),
        ("{chunks} {", "Single '{' encountered in format string"),
    ],
)
def test_a_template_that_rows_cannot_fill_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Template.parse(template, FIELDS, "FILE")
    assert str(error.value) == f"FILE: {message}; {NAMED}"


def test_a_rows_words_are_no_template() -> None:
    filled = Template.parse("{chunks}{question}", FIELDS, "FILE").filled(
        {"chunks": ["{question}"], "question": ["{x}"]}
    )
    assert filled == "{question}{x}"


# What gives way


def lost(row: Read) -> list[int]:
    return [*row.lost]


def test_pieces_give_way_until_the_prompt_fits_and_their_losses_are_counted() -> None:
    tokenizer = plain()
    # 40 tokens: the start, 3 chunks of 20, 5 and 30 with line ends, and the question
    for room in (60, 59, 40, 12, 8):
        (row,) = reader(tokenizer, "{chunks}\n{question}", lambda _, room=room: room).read(
            [asked("Was?", "Blau.", "a" * 20, "b" * 5, "c" * 30)]
        )
        whole = 1 + 20 + 5 + 30 + 3 + len("Was?")
        assert len(row.prompt) == min(whole, max(room, 8)) and row.excess == 0
        assert sum(lost(row)) == whole - len(row.prompt)
        assert tokens(tokenizer, row.prompt)[-4:] == [*"Was?"]
    assert lost(row) == [20, 5, 30]


def test_questions_of_one_context_read_the_same_of_it_and_lose_none_of_what_fits() -> None:
    # room 320: what does not give way counts as a multiple of 320 / 32 = 10 tokens. The start, the question
    # and the line's end are 12 to 20 of them, hence 20; 21 are 30.
    contexts = {}
    for size in (10, 14, 18, 19):
        (row,) = reader(plain(), "{chunks}\n{question}", lambda _: 320).read(
            [asked("w" * size, "Blau.", "a" * 400)]
        )
        contexts[size] = len(row.prompt) - size - 2
    assert contexts == {10: 300, 14: 300, 18: 300, 19: 290}
    # one that fits to the last token is whole
    (row,) = reader(plain(), "{chunks}\n{question}", lambda _: 320).read(
        [asked("w" * 15, "Blau.", "a" * 303)]
    )
    assert len(row.prompt) == 320 and lost(row) == [0]
    # nothing but what gives way: not a token is lost for a question's sake
    (row,) = reader(plain(), "Lies:{chunks}", lambda _: 320).read([asked("", "Blau.", "a" * 400)])
    assert len(row.prompt) == 320


def test_what_nothing_can_give_way_for_is_counted() -> None:
    (row,) = reader(plain(), "{chunks}{question}", lambda size: 20 - size).read(
        [asked("W" * 30, "Blau.", "a")]
    )
    # the start and 30 W; 20 less " Blau." and the end
    assert lost(row) == [1] and row.excess == 31 - (20 - 7)


def test_a_prompt_in_a_chat_gives_way_inside_its_turn() -> None:
    tokenizer = chat(CHATML)
    (row,) = reader(tokenizer, "{chunks} {question}", lambda _: 60).read([asked("Was?", "Blau.", "a" * 90)])
    read = "".join(tokens(tokenizer, row.prompt))
    assert read.startswith("<|im_start|>user\naaa") and read.endswith(
        "a Was?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(row.prompt) == 60


@pytest.mark.parametrize(
    "piece", ["😀" * 40, "ä" * 90, "שלום " * 30, "a\0" * 60, "\u202eabc" * 30, "x\ud800" * 40]
)
def test_characters_of_several_tokens_are_cut_whole(piece: str) -> None:
    tokenizer = plain()
    (row,) = reader(tokenizer, "{chunks}|{question}", lambda _: 40).read([asked("Was?", "Blau.", piece)])
    kept = tokenizer.decode(row.prompt.tolist()[1:])
    readable = piece.encode("utf-8", "replace").decode()
    assert kept.endswith("|Was?") and readable.startswith(kept.removesuffix("|Was?"))
    assert 36 <= len(row.prompt) <= 40


def test_thousands_of_pieces_give_way() -> None:
    (row,) = reader(plain(), "{chunks}|{question}", lambda _: 5000).read(
        [asked("Was?", "Blau.", *("ab" * (1 + n % 3) for n in range(3000)))]
    )
    assert len(row.prompt) <= 5000 and row.excess == 0 and len(lost(row)) == 3000


# In the task


def test_targets_are_the_same_where_the_end_pads(tmp_path: Path) -> None:
    folder, found = tiny_model("llama", tmp_path), []
    examples = [
        Example(id=str(n), group=str(n), fields={"chunks": ["a" * n], "question": ["Was?"]}, target="b" * n)
        for n in (1, 9, 4)
    ]
    recipe = recipes.load("german_rag")
    words = ["--model", folder, "--init", "random", "--quantize", "none", "--lora-rank", "0", "--chat"]
    words += ["--max-length", "200", "--max-new-tokens", "20", "--precision", "fp32"]
    for pad in ("[PAD]", "</s>"):
        tokenizer = chat(ZEPHYR, added=())
        tokenizer.pad_token = pad
        tokenizer.save_pretrained(folder)
        task: Any = make_task(recipe, parse(recipe.config, words, "test"))
        task.check()
        rows = task.encode(examples)
        inputs = task.collate(encoded_rows.pack(rows), (0, 1, 2)).inputs
        assert text.specials_of(task.tokenizer).pad == task.tokenizer.convert_tokens_to_ids(pad)
        assert [row.num_targets for row in rows] == [2, 10, 5], "each text and its end"
        found.append(("".join(tokens(task.tokenizer, inputs.targets.tolist())), inputs.predictors.tolist()))
    assert found[0] == found[1] and found[0][0].count("</s>") == 3
