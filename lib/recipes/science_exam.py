"""Science exam: a question, its options, and a context that may hold the answer -> the options in order.

Selected by MAP@3 (one right answer a row, so a row scores 1, 1/2, 1/3 or 0); accuracy and log loss stand
beside it. An encoder reads `context [SEP] question option` and gives one score an option; a decoder or T5 is
asked how likely each option is after context and question.

    bash launch/run.sh science_exam --data sample --model minilm
    torchrun --nproc_per_node=4 scripts/train.py science_exam --data train.csv --index runs/wiki.index \\
        --model microsoft/deberta-v3-large --batch 16                                     # not measured
"""

import math
import random
from string import ascii_uppercase

from lib.answers import metrics
from lib.config import ChooseConfig, Config, DataConfig, ModelConfig, OptimConfig
from lib.recipe import Example, Prediction, Recipe, Row, as_word

CONFIG = Config(
    recipe="science_exam",
    # contexts are longer than they need be, the best of them first: that they are cut is no fault
    data=DataConfig(data="sample", max_length=512, max_cut=1.0),
    task=ChooseConfig(),
    model=ModelConfig(model="minilm"),
    optim=OptimConfig(batch=16, epochs=3, lr=1e-4),
)

# Kaggle's columns (a column `context` may stand beside them), those of ai2_arc, and those of openbookqa
KAGGLE = ("prompt", "A", "B", "answer")
ARC = ("question", "choices", "answerKey")
OPENBOOK = ("question_stem", "choices", "answerKey")
ANSWERS = ("answer", "answerKey")

# (what is asked for, how a context says it, values): the sample's questions ask for one of a thing's values
ASPECTS = (
    ("colour", "Seen by daylight it is {value}.", ("red", "blue", "green", "white", "black", "yellow")),
    ("origin", "It was first found in {value}.", ("Norway", "Chile", "Japan", "Kenya", "Canada", "Turkey")),
    ("use", "People use it for {value}.", ("glass", "paint", "medicine", "fuel", "paper", "bread")),
    ("discoverer", "{value} described it first.", ("Curie", "Darwin", "Kepler", "Noether", "Pasteur")),
    ("age", "It is about {value} years old.", ("forty", "ninety", "two hundred", "a thousand", "a million")),
)  # fmt: skip
KINDS = ("mineral", "moth", "comet", "fern", "enzyme", "gas")
SYLLABLES = ("ka", "lo", "mir", "tan", "ve", "zu", "or", "phe", "dal", "qui")


def sample_rows(num_rows: int, seed: int) -> list[Row]:
    """Contexts that state four values of an invented thing, of which the question asks for one; the options
    are values of the same kind, four or five of them. One answer in 30 is wrong."""
    draw = random.Random(seed)
    return [_sample_row(number, draw) for number in range(num_rows)]


def _sample_row(number: int, draw: random.Random) -> Row:
    kind, name = draw.choice(KINDS), "".join(draw.sample(SYLLABLES, 3)).capitalize()
    told = draw.sample(ASPECTS, 4)
    values = [draw.choice(choices) for _, _, choices in told]
    sentences = [says.format(value=value) for (_, says, _), value in zip(told, values, strict=True)]
    asked, _, choices = told[0]
    others = [choice for choice in choices if choice != values[0]]
    options = [values[0], *draw.sample(others, draw.choice((3, 4)))]
    draw.shuffle(options)
    right = options.index(values[0])
    if draw.random() < 1 / 30:
        right = draw.randrange(len(options))
    draw.shuffle(sentences)
    return {
        "id": str(number),
        "prompt": f"What is the {asked} of the {kind} {name} (entry {number})?",
        "context": f"{name} is a {kind}. " + " ".join(sentences),
        **dict(zip(ascii_uppercase, options, strict=False)),
        "answer": ascii_uppercase[right],
    }


def to_example(row: Row) -> Example:
    """A row of any of the three forms. A row without an answer is an example without a label. Raises
    ValueError for an answer that is no option, a gap among the options, an empty context."""
    if "choices" in row:
        question, letters, options = _from_choices(row)
    else:
        question, letters, options = row["prompt"], *_from_columns(row)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question is {question!r}, expected text")
    if len(options) < 2:
        raise ValueError(f"{len(options)} options, expected at least 2")
    notes = ["equal options"] * (len(set(options)) < len(options))
    example = Example(group=question, question=question.strip(), options=options, notes=notes)
    if row.get("context") is not None:
        if not isinstance(row["context"], str):
            raise ValueError(f"the context is {row['context']!r}, expected text")
        if not row["context"].strip():
            raise ValueError(
                "the context is empty; where there is none leave the column out, or write null in a .jsonl"
            )
        example["context"] = [row["context"]]
    if letters != list(ascii_uppercase[: len(letters)]):
        example["letters"] = letters
    answers = {_letter(row[name]) for name in ANSWERS if not _is_empty(row.get(name))}
    if len(answers) > 1:
        raise ValueError(f"two answers: {' and '.join(f'{name} {row[name]!r}' for name in ANSWERS)}")
    for answer in answers:
        if answer not in letters:
            raise ValueError(f"the answer is {answer!r}, none of the options {', '.join(letters)}")
        example["label"] = letters.index(answer)
    for name in ("id", "passage_id"):  # the latter: the passage of an index that holds the answer
        if (word := as_word(row.get(name))) is not None:
            example[name] = word  # type: ignore[literal-required]
    return example


def _from_choices(row: Row) -> tuple[str, list[str], list[str]]:
    """(question, letters, options) of ai2_arc's and openbookqa's columns."""
    choices = row["choices"]
    texts, labels = (choices.get("text"), choices.get("label")) if isinstance(choices, dict) else (None, None)
    if not isinstance(texts, list | tuple) or not isinstance(labels, list | tuple):
        raise ValueError('choices must be {"text": [...], "label": [...]}')
    if len(texts) > len(ascii_uppercase):
        raise ValueError(f"there are {len(texts)} options, more than {len(ascii_uppercase)}")
    letters, options = [_letter(label) for label in labels], [_option(text) for text in texts]
    if len(letters) != len(options):
        raise ValueError(f"{len(options)} options under {len(letters)} labels")
    if len(set(letters)) < len(letters):
        raise ValueError(f"one label stands on two options: {', '.join(letters)}")
    return row["question"] if "question" in row else row["question_stem"], letters, options


def _from_columns(row: Row) -> tuple[list[str], list[str]]:
    """(letters, options) of the columns A, B, C ...; the last ones may be empty, a gap is an error."""
    columns = [(letter, row[letter]) for letter in ascii_uppercase if letter in row]
    for (letter, _), expected in zip(columns, ascii_uppercase, strict=False):
        if letter != expected:
            raise ValueError(f"there is an option {letter} and no column {expected}")
    while columns and _is_empty(columns[-1][1]):
        columns.pop()
    return [letter for letter, _ in columns], [_option(text, letter) for letter, text in columns]


def _is_empty(value: object) -> bool:
    """pandas writes NaN for the options that a row does not have. 0 is a value like any other."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _letter(value: object) -> str:
    """What an option is called."""
    return (as_word(value) or "").strip()


def _option(text: object, letter: str = "") -> str:
    if isinstance(text, int) or (isinstance(text, float) and math.isfinite(text)):
        text = str(text) if isinstance(text, bool) else as_word(text)  # a column of numbers read from parquet
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"option {letter} is {text!r}, expected text".replace("  ", " "))
    return text.strip()


def submission(prediction: Prediction) -> Row:
    """Kaggle's form: the three likeliest letters."""
    return {"id": prediction["id"], "prediction": " ".join(prediction["ranking"][:3])}


def features(example: Example) -> list[list[float]]:
    """Of each option its length beside the others': what a judge who likes long answers would see."""
    lengths = [len(option) for option in example["options"]]
    mean = sum(lengths) / len(lengths)
    return [[length / mean - 1, float(length == max(lengths))] for length in lengths]


RECIPE = Recipe(
    task="choose",
    config=CONFIG,
    columns=(KAGGLE, ARC, OPENBOOK),
    label_columns=ANSWERS,
    optional=("id", "context", "passage_id", *ascii_uppercase),
    labels=tuple(ascii_uppercase),
    sample=sample_rows,
    to_example=to_example,
    metrics=(metrics.MAP_AT_3, metrics.ACCURACY, metrics.LOG_LOSS),
    features=features,
    submission=submission,
    licence="sample: generated here; Kaggle, ai2_arc, openbookqa: see the data set's page",
)
