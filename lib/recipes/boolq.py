"""BoolQ: a question about a passage -> yes or no.

The question first, the model's own separator, then the passage; one output under binary cross-entropy.
Selected by log loss; accuracy and the false predictions stand beside it. By default an LLM of one billion
parameters on a 4-bit base with LoRA.

    bash launch/run.sh boolq --data sample --model minilm --quantize none --lora-rank 0
    torchrun --nproc_per_node=4 scripts/train.py boolq        # google/boolq, Llama-3.2-1B: not measured
"""

import random

from lib.answers import metrics
from lib.config import AdapterConfig, Config, DataConfig, ModelConfig, OptimConfig
from lib.recipe import Example, Recipe, Row, as_word, sample_words

CONFIG = Config(
    recipe="boolq",
    data=DataConfig(data="google/boolq", max_length=512),
    model=ModelConfig(model="meta-llama/Llama-3.2-1B"),
    adapter=AdapterConfig(lora_rank=16, quantize="nf4"),
    optim=OptimConfig(batch=64, epochs=3, lr=2e-4),
)

COLUMNS = ("question", "passage", "answer")
LABELS = ("no", "yes")
YES, NO = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")

# kinds: a kind of thing, names, what can be said of one (the words after "is"), facts that answer nothing
WORDS = sample_words("boolq")


def sample_rows(num_rows: int, seed: int) -> list[Row]:
    """Passages that state or deny what is asked among facts that do not matter; six in ten are true, as in
    BoolQ, and one verdict in 30 is wrong."""
    draw = random.Random(seed)
    return [_sample_row(number, draw) for number in range(num_rows)]


def _sample_row(number: int, draw: random.Random) -> Row:
    kind, names, claims, facts = draw.choice(WORDS["kinds"])
    name, claim = draw.choice(names), draw.choice(claims)
    answer = draw.random() < 0.6
    words = {"name": name, "kind": kind, "claim": claim, "year": draw.randint(1850, 2020)}
    sentences = [
        draw.choice(WORDS["said"] if answer else WORDS["denied"]).format(**words),
        *draw.sample(facts, draw.randint(1, 3)),
    ]
    draw.shuffle(sentences)
    passage = f"{name} ({kind}, entry {number}). " + " ".join(sentences)
    if draw.random() < 1 / 30:
        answer = not answer
    question = f"is the {name} {kind} {claim}".lower()
    return {"question": question, "title": name, "answer": answer, "passage": passage}


def to_example(row: Row) -> Example:
    """BoolQ's columns; the passage is the group, so that no passage stands on two sides of a split. A
    row without an answer is an example without a label."""
    question, passage = (_text(name, row[name]) for name in ("question", "passage"))
    notes = ["empty passage"] * (not passage.strip())
    example = Example(group=passage, texts=[[question, passage]], notes=notes)
    if row.get("answer") is not None:
        word = str(row["answer"]).strip().lower()
        if word not in YES + NO:
            raise ValueError(f"answer is {row['answer']!r}; it must be one of {', '.join(YES + NO)}")
        example["label"] = int(word in YES)
    if (identity := as_word(row.get("id"))) is not None:
        example["id"] = identity
    return example


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, expected text")
    if name == "question" and not value.strip():
        raise ValueError("question is empty")
    return value


RECIPE = Recipe(
    task="classify",
    config=CONFIG,
    columns=(COLUMNS,),
    label_columns=("answer",),
    optional=("id",),
    labels=LABELS,
    family="decoder",
    sample=sample_rows,
    probes=tuple(WORDS["probes"]),
    to_example=to_example,
    metrics=(metrics.LOG_LOSS, metrics.ACCURACY),
    licence="sample: generated here; BoolQ: CC BY-SA 3.0",
)
