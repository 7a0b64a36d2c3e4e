"""German RAG: a question and the chunks that were retrieved for it -> an answer from these alone that names
its source, or a refusal where the answer is not there.

Chunks are cut to fit before the question is. Selected by the loss for each token; the scorecard (cited,
refused, covered) of what the model writes by itself stands beside it. By default QLoRA on a model of 7
billion parameters.

    bash launch/run.sh german_rag --data sample --model tiny --init random --quantize none --lora-rank 0
    torchrun --nproc_per_node=4 scripts/train.py german_rag --model meta-llama/Llama-2-13b-hf  # not measured
"""

import itertools
import json
import random
from contextlib import suppress

from lib.answers import citing, text_metrics
from lib.answers.citing import REFUSAL, cite, named, said, uncited
from lib.answers.text_metrics import sentences
from lib.config import AdapterConfig, Config, DataConfig, ModelConfig, OptimConfig, RagConfig, TaskConfig
from lib.data.chunks import Chunk, Paragraph, chunks_of, contexts, described, share_of, text_of, title_of
from lib.recipe import Example, Recipe, Row, as_word, sample_words

CONFIG = Config(
    recipe="german_rag",
    data=DataConfig(data="deepset/germanquad", max_length=1024),
    task=RagConfig(template="Kontext:\n{chunks}\n\nFrage: {question}\nAntwort:", max_new_tokens=128),
    model=ModelConfig(model="VAGOsolutions/SauerkrautLM-7b-v1-mistral"),
    adapter=AdapterConfig(lora_rank=12, lora_alpha=10, lora_dropout=0.1, quantize="nf4"),
    optim=OptimConfig(batch=16, epochs=3, lr=2e-4, precision="bf16"),
)

# GermanQuAD's and SQuAD's columns (a title may stand beside them); and rows that have their chunks
SQUAD, OWN = ("question", "context", "answers"), ("question", "chunks", "answer")
WORDS = sample_words("german_rag")
QUESTIONS = 5  # of a context of the sample, as many as GermanQuAD asks of a paragraph
UNANSWERED = 0.25  # of them


def sample_rows(num_rows: int, seed: int) -> list[Row]:
    """Questions about invented modules, some of one context each; its chunks state two facts of a module
    each, and about one question in four asks for what no chunk says."""
    draw = random.Random(seed)
    rows: list[Row] = []
    while len(rows) < num_rows:
        rows += _sample_context(draw)
    return [{"id": str(number), **row} for number, row in enumerate(rows[:num_rows])]


def _sample_context(draw: random.Random) -> list[Row]:
    titles, facts = WORDS["modules"], WORDS["facts"]
    *codes, missing = draw.sample(list(titles), draw.randint(3, 5))
    pairs = [(code, fact) for code in codes for fact in draw.sample(list(facts), 2)]
    stated = {pair: _sentence(*pair, draw) for pair in pairs}
    chunks = [
        {
            "text": " ".join(text for (of, _), text in stated.items() if of == code),
            "module": code,
            "title": titles[code],
            "ects": draw.randint(2, 8),
            "source": f"{draw.choice(WORDS['files'])}-{place}",
        }
        for code, place in zip(codes, draw.sample(range(10, 60), len(codes)), strict=True)
    ]
    sources = {chunk["module"]: chunk["source"] for chunk in chunks}
    unstated = [pair for pair in itertools.product([*codes, missing], facts) if pair not in stated]
    draw.shuffle(pairs)
    rows = []
    for _ in range(QUESTIONS):
        code, fact = pair = pairs.pop() if pairs and draw.random() >= UNANSWERED else draw.choice(unstated)
        question = draw.choice(facts[fact]["questions"]).format(title=titles[code])
        answer, source = (stated[pair], sources[code]) if pair in stated else (REFUSAL, None)
        rows.append({"question": question, "chunks": chunks, "answer": answer, "source": source})
    return rows


def _sentence(code: str, fact: str, draw: random.Random) -> str:
    words = WORDS["facts"][fact]
    sentence = draw.choice(words["sentences"])
    return sentence.format(title=WORDS["modules"][code], value=draw.choice(words["values"]))


def to_example(row: Row) -> Example:
    """A row of either form. Raises ValueError for a question, a chunk or an answer that is no text, and for a
    source that no chunk has."""
    question = _text("question", row["question"])
    if "chunks" in row:
        example = _from_chunks(row)
    else:
        paragraph = _text("context", row["context"])
        example = Example(group=paragraph, fields={"chunks": [paragraph]})
        if (title := as_word(row.get("title")) or title_of(paragraph)) is not None:
            example["fields"]["title"] = [title]
        if row.get("answers") is not None:
            example["short"] = _answers(row["answers"])
            example["target"] = example["short"][0]
    example["fields"]["question"] = [question]
    if (identity := as_word(row.get("id"))) is not None:
        example["id"] = identity
    return example


def _from_chunks(row: Row) -> Example:
    chunks = chunks_of(row["chunks"])
    sources = [chunk.source for chunk in chunks]
    example = Example(
        group="\n".join(f"{chunk.source} {chunk.text}" for chunk in chunks),
        fields={"chunks": list(map(described, chunks))},
    )
    example["sources"] = sources
    source, answer = named(as_word(row.get("source")) or ""), _answer(row.get("answer"))
    if source and source not in sources:
        raise ValueError(f"the source is {source!r}, none of the chunks' ({', '.join(sources):.200})")
    if source:
        example["gold"] = sources.index(source)
    if answer is not None and source:
        if not (short := uncited(_text("answer", answer))):
            raise ValueError(f"answer is {answer!r:.80}, a source alone; expected words before it")
        example["short"] = [short]
        example["target"] = _cited(answer, source)
    elif answer is not None:
        if answer and not said(answer).refused:
            raise ValueError(
                f"answer is {answer!r:.80} without a source; name one of the chunks' "
                f"({', '.join(sources):.200}), or leave it empty where they do not hold it"
            )
        example["target"] = answer or REFUSAL
    return example


def _answer(value: object) -> str | None:
    """None where it is not known; empty where there is none."""
    value = as_word(value) if isinstance(value, int | float) else value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"answer is {value!r:.80}, expected text")
    return None if value is None else value.strip()


def _cited(answer: str, source: str) -> str:
    """An answer with its source, which it may name itself."""
    found = said(answer)
    if found.refused or found.cited not in ([], [source]):
        does = "refuses" if found.refused else f"cites {', '.join(found.cited)}"
        raise ValueError(f"answer is {answer!r:.80}, which {does}, yet the source is {source!r}")
    return answer if found.cited else cite(answer, source)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r:.80}, expected text")
    return value.strip()


def _answers(value: object) -> list[str]:
    texts = value
    if isinstance(texts, str) and texts.lstrip().startswith("{"):  # as a csv holds it
        with suppress(ValueError, RecursionError):
            texts = json.loads(texts)
    texts = texts.get("text") if isinstance(texts, dict) else texts
    texts = [texts] if isinstance(texts, str) and not texts.lstrip().startswith("{") else texts
    if not isinstance(texts, list | tuple) or not texts:
        raise ValueError(f'answers is {value!r:.80}, expected {{"text": [...]}} with one text or more')
    found = [_text("an answer", text) for text in texts]
    if odd := next((text for text in found if said(text).cited or said(text).refused), None):
        raise ValueError(f"an answer is {odd!r:.80}, which cites or refuses; expected what the context says")
    return found


def finish(examples: list[Example], task: TaskConfig) -> list[Example]:
    """Rows with one paragraph get a context of chunks, and their answer a source; some lose their own."""
    assert isinstance(task, RagConfig)
    plain = [row for row in examples if "sources" not in row]
    answers: dict[str, list[str]] = {}
    for row in plain:
        answers.setdefault(row["fields"]["chunks"][0], []).extend(row.get("short", []))
    documents = {row["fields"]["chunks"][0]: row["fields"].get("title", [None])[0] for row in plain}
    paragraphs = [Paragraph(text, documents[text], tuple(found)) for text, found in answers.items()]
    made = contexts(paragraphs, task.chunks)
    return [
        row if "sources" in row else _with_chunks(row, *made[row["fields"]["chunks"][0]], task)
        for row in examples
    ]


def _with_chunks(row: Example, whole: list[Chunk], without: list[Chunk], task: RagConfig) -> Example:
    own = row["fields"]["chunks"][0]
    answered = "short" not in row or share_of(row["id"]) >= task.unanswerable
    chunks = whole if answered else without
    fields = {"chunks": list(map(described, chunks)), "question": row["fields"]["question"]}
    finished = Example(**{**row, "fields": fields, "sources": [chunk.source for chunk in chunks]})
    if "short" in row and not answered:
        finished["target"] = REFUSAL
    elif "short" in row:
        finished["gold"] = next(place for place, chunk in enumerate(chunks) if chunk.text == own)
        answer = row["short"][0].rstrip(".") or row["short"][0]
        finished["target"] = cite(WORDS["answer"].format(answer=answer), chunks[finished["gold"]].source)
    return finished


def first_sentence(example: Example) -> str:
    """The first sentence of the first chunk, and that as the source."""
    if not example["sources"]:
        return ""
    first = text_of(example["fields"]["chunks"][0], example["sources"][0])
    return cite((sentences(first) or [first])[0], example["sources"][0])


RECIPE = Recipe(
    task="complete",
    config=CONFIG,
    columns=(SQUAD, OWN),
    label_columns=("answers", "answer", "source"),
    answers="cited",
    family="decoder",
    fields=("chunks", "question"),
    gives_way=("chunks",),
    writers={
        "always refuse": lambda example: REFUSAL,
        "first sentence of the first chunk": first_sentence,
    },
    finish=finish,
    optional=("id", "title", "source"),
    sample=sample_rows,
    to_example=to_example,
    metrics=(text_metrics.LOSS, *citing.ALL, *text_metrics.SHORT),
    revisions={"deepset/germanquad": "refs/convert/parquet"},
    licence="sample: generated here; deepset/germanquad: CC BY 4.0",
)
