"""Meta-review: the reviews of a paper -> the summary that an area chair writes of them.

A decoder reads as much of the reviews as its context takes, evenly among them, and never loses a word of
what it is to write. Selected by the loss for each token; ROUGE, BLEU and chrF of what it writes by itself
stand beside it.

    bash launch/run.sh meta_review --data sample --model tiny --init random
    torchrun --nproc_per_node=4 scripts/train.py meta_review     # the hub's rows, pythia-70m: not measured
"""

import json
import random
from contextlib import suppress

from lib.answers import text_metrics
from lib.answers.text_metrics import sentences
from lib.config import CompleteConfig, Config, DataConfig, ModelConfig, OptimConfig
from lib.recipe import Example, Recipe, Row, as_word, sample_words

CONFIG = Config(
    recipe="meta_review",
    # reviews are longer than the context of a pythia: that they are cut is no fault
    data=DataConfig(data="zqz979/meta-review", max_length=2048, max_cut=1.0),
    task=CompleteConfig(template="Reviews of a paper:\n\n{reviews}\n\nMeta-review:", max_new_tokens=300),
    model=ModelConfig(model="EleutherAI/pythia-70m"),
    optim=OptimConfig(batch=32, epochs=15, lr=1e-5),
)

COLUMNS = ("Input", "Output")
LEAD = 3  # sentences of the longest review that a judge without a model would hand in
MARK = "|||||"  # stands between two reviews where a row has them in one text
WORDS = sample_words("meta_review")


def sample_rows(num_rows: int, seed: int) -> list[Row]:
    """Two to four reviews of an invented paper. The meta-review names its topic and method, a strength and a
    weakness that reviewers name, and follows the majority of their votes."""
    draw = random.Random(seed)
    return [_sample_row(number, draw) for number in range(num_rows)]


def _sample_row(number: int, draw: random.Random) -> Row:
    topic, method, strength, weakness = (
        draw.choice(WORDS[kind]) for kind in ("topics", "methods", "strengths", "weaknesses")
    )
    words = {"topic": topic, "method": method, "strength": strength, "weakness": weakness}
    votes = [draw.choice(("accept", "reject")) for _ in range(draw.choice((3, 3, 5)))]
    reviews = [_sample_review(vote, words, draw) for vote in votes]
    verdict = max(("accept", "reject"), key=votes.count)
    said = f"The paper presents {method} for {topic}. Reviewers agree that {strength}, but {weakness}."
    return {
        "id": str(number),
        "Input": f" {MARK} ".join([f"(Submission {draw.randint(1000, 9999)}) {reviews[0]}", *reviews[1:]]),
        "Output": f"{said} I recommend to {verdict} it.",
    }


def _sample_review(vote: str, words: dict[str, str], draw: random.Random) -> str:
    parts = [draw.choice(WORDS[kind]).format(**words) for kind in ("openers", "praise", "blame")]
    parts.insert(draw.randint(1, 3), draw.choice(WORDS["asides"]))
    return " ".join([*parts, draw.choice(WORDS["votes"][vote])])


def to_example(row: Row) -> Example:
    """Input: the reviews, as a JSON list, or as one text with a mark between two; Output: the meta-review. A
    row without that is an example without a target."""
    reviews = _reviews(row["Input"])
    example = Example(group="\n".join(reviews), fields={"reviews": reviews})
    if row.get("Output") is not None:
        if not isinstance(row["Output"], str) or not row["Output"].strip():
            raise ValueError(f"Output is {row['Output']!r:.80}, expected text")
        example["target"] = row["Output"].strip()
    if (identity := as_word(row.get("id"))) is not None:
        example["id"] = identity
    return example


def _reviews(value: object) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # else it is text that begins with a bracket
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"Input is {value!r:.80}, expected text or a list of texts")
    reviews = [review.strip() for text in texts for review in text.split(MARK) if review.strip()]
    if not reviews:
        raise ValueError("Input is empty")
    return reviews


def to_row(example: Example) -> Row:
    reviews = json.dumps(example["fields"]["reviews"])
    return {"id": example["id"], "Input": reviews, "Output": example["target"]}


def lead(example: Example) -> str:
    """The first sentences of the longest review."""
    return " ".join(sentences(max(example["fields"]["reviews"], key=len))[:LEAD])


RECIPE = Recipe(
    task="complete",
    config=CONFIG,
    columns=(COLUMNS,),
    label_columns=("Output",),
    answers="text",
    family="decoder",
    fields=("reviews",),
    gives_way=("reviews",),
    writers={"lead of the longest review": lead},
    list_columns=("Input",),
    optional=("id",),
    sample=sample_rows,
    to_example=to_example,
    to_row=to_row,
    metrics=text_metrics.ALL,
    revisions={"zqz979/meta-review": "fda76e737e846af2ae138fe12cf53e973b62822a"},
    licence="sample: generated here; zqz979/meta-review: see the data set's page",
)
