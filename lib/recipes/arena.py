"""Arena preference: a prompt and two answers -> A wins, B wins, or a tie.

Each answer is encoded after its prompt by one encoder; the two vectors go side by side into a small head with
three classes. Selected by log loss; accuracy, the confusion matrix and agreement under swapping stand beside
it.

    bash launch/run.sh arena --data sample --model minilm      # the README has its time and scores
    torchrun --nproc_per_node=4 scripts/train.py arena --data lmsys/lmsys-arena-human-preference-55k \\
        --model microsoft/deberta-v3-base                      # not measured
"""

import json
import random

from lib.answers import metrics
from lib.config import Config, DataConfig, ModelConfig, OptimConfig, PairConfig
from lib.recipe import Example, Recipe, Row, as_word, sample_words

CONFIG = Config(
    recipe="arena",
    data=DataConfig(data="sample", max_length=512),
    task=PairConfig(),
    model=ModelConfig(model="minilm"),
    optim=OptimConfig(batch=32, epochs=3, lr=1e-4),
)

WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
TEXTS = ("prompt", "response_a", "response_b")
COLUMNS = (*TEXTS, *WINNERS)
LABELS = ("A wins", "B wins", "tie")

# topics: thing, what it is for, three facts; a prompt asks about a thing, good answers use its facts
WORDS = sample_words("arena")


def sample_rows(num_rows: int, seed: int) -> list[Row]:
    """Prompts with a good, a vague or a useless answer on each side; the better kind wins, equal kinds tie,
    and one verdict in 30 is a whim. Lengths say little: vague and off-topic answers ramble as well."""
    draw = random.Random(seed)
    return [_sample_row(number, draw) for number in range(num_rows)]


def _sample_row(number: int, draw: random.Random) -> Row:
    thing, use, *_ = topic = draw.choice(WORDS["topics"])
    prompt = draw.choice(WORDS["prompts"]).format(
        thing=thing, use=use, who=draw.choice(WORDS["readers"]), n=draw.randint(2, 9)
    )
    quality = [draw.randint(0, 2), draw.randint(0, 2)]
    answers = [_sample_answer(kind, topic, draw) for kind in quality]
    label = 2 if quality[0] == quality[1] else int(quality[1] > quality[0])
    if draw.random() < 1 / 30:
        label = draw.randrange(3)
    return {
        "id": str(number),
        "prompt": json.dumps([f"{prompt} (question {draw.randint(100, 99999)})"]),
        "response_a": json.dumps([answers[0]]),
        "response_b": json.dumps([answers[1]]),
        **{winner: int(place == label) for place, winner in enumerate(WINNERS)},
    }


def _sample_answer(kind: int, topic: list[str], draw: random.Random) -> str:
    thing, use, *facts = topic
    if kind == 0 and draw.random() < 0.5:
        return draw.choice(WORDS["refusals"])
    if kind == 0:  # fluent, and about something else
        thing, use, *facts = draw.choice([other for other in WORDS["topics"] if other != topic])
    sentences = draw.sample(WORDS["vague"], draw.randint(1, 4))
    if kind != 1:
        sentences = [f"With {thing}, {fact}." for fact in draw.sample(facts, draw.randint(1, 3))]
        sentences += [f"That is what counts in {use}."] * draw.randint(0, 1)
    return " ".join([draw.choice(WORDS["openers"]), *sentences]).strip()


def to_example(row: Row) -> Example:
    """Kaggle's columns: turns are JSON lists in a string, and exactly one of three winner columns is 1. A row
    without these columns is an example without a label."""
    labelled = any(name in row for name in WINNERS)
    winners = [_flag(name, row[name]) for name in WINNERS] if labelled else []
    if labelled and sum(winners) != 1:
        columns = ", ".join(f"{name}={row[name]}" for name in WINNERS)
        raise ValueError(
            f"{'no winner' if not sum(winners) else 'more than one winner'} ({columns}); exactly one is 1"
        )
    prompt, first, second = (_turns(name, row[name]) for name in TEXTS)
    empty = [not "".join(turns).strip() for turns in (first, second)]
    notes = ["empty response"] * sum(empty) + ["A equal to B"] * (first == second)
    example = Example(group="\n".join(prompt), context=prompt, texts=[first, second], notes=notes)
    if labelled:
        example["label"] = winners.index(1)
    if (identity := as_word(row.get("id"))) is not None:
        example["id"] = identity
    return example


def _flag(name: str, value: object) -> int:
    word = str(value).strip().lower()  # a spreadsheet writes TRUE
    if word in ("0", "1", "0.0", "1.0", "false", "true"):
        return int(word in ("1", "1.0", "true"))
    raise ValueError(f"{name} is {value!r}; it must be 0 or 1")


def _turns(name: str, value: object) -> list[str]:
    """The turns of one side; a turn that is null (real rows have some) is an empty text. Text that is no list
    is one turn."""
    if isinstance(value, str) and value.strip() and not value.lstrip().startswith("["):
        return [value]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:  # syntax, a number of 5,000 digits, nesting
            raise ValueError(f"{name} is no JSON list of turns: {error}") from error
    if not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, expected a list of turns")
    for place, turn in enumerate(value):
        if turn is not None and not isinstance(turn, str):
            raise ValueError(f"{name}, turn {place + 1}, is {turn!r}, expected text")
    return [turn or "" for turn in value]


def features(example: Example) -> list[float]:
    """Lengths alone: what a judge who likes long answers would see."""
    first, second = (float(sum(map(len, turns))) for turns in example["texts"])
    return [(first - second) / 1000, abs(first - second) / 1000, (first - second) / (first + second + 1)]


RECIPE = Recipe(
    task="classify",
    config=CONFIG,
    columns=(COLUMNS,),
    label_columns=WINNERS,
    labels=LABELS,
    sample=sample_rows,
    optional=("id",),
    list_columns=TEXTS,
    to_example=to_example,
    metrics=(metrics.LOG_LOSS, metrics.ACCURACY, metrics.SWAP_AGREEMENT),
    features=features,
    swapped_labels=(1, 0, 2),
    licence="sample: generated here; lmsys: see the data set's page",
)
