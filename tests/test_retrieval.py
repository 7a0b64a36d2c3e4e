"""Retrieval: the vectors are the model's, a killed build loses nothing, an index that no longer fits is
refused, and the same rows get the same contexts."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import recipe, run
from lib.answers import hits
from lib.answers import load as answers_of
from lib.base import exits
from lib.base.exits import CheckError, StoppedError
from lib.base.files import read_json, read_lines, sha256_of
from lib.command_line import parse
from lib.config import ChooseConfig, Config, DataConfig
from lib.corpus import contexts, readers
from lib.evaluation.predict import predict
from lib.evaluation.rescore import rescore
from lib.evaluation.trained import OtherRows
from lib.recipe import Example, Prediction, Row
from lib.retrieval import embed as embed_module
from lib.retrieval import nearest, passages
from lib.retrieval.build import Builder, Settings
from lib.retrieval.embed import Embedder, micro_batches
from lib.retrieval.folder import open_index
from lib.retrieval.search import Searcher, fill
from lib.retrieval.sentences import sentences
from lib.retrieval.shards import Shards, shard_file
from tests.tools import ROOT, SHARED, SHORT, only_run
from tests.tools import run as run_script

EXAM = recipe.load("science_exam")
REAL_PASSAGES = SHARED / "llm_science_exam" / "wiki_passages.jsonl"
REAL_ROWS = SHARED / "llm_science_exam" / "train.jsonl"
SHARD = 16


def toy(folder: Path, seed: int = 0, kind: str = "bert", max_seq_length: int | None = 64) -> str:
    """A sentence-transformers model of a family with random weights; it reads 64 bytes of a text."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    from lib.models import tiny

    torch.manual_seed(seed)
    tokenizer = tiny.tokenizer()
    config = tiny.config("encoder", len(tokenizer))
    if kind != "bert":
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        words = {"intermediate_size": 128, "max_position_embeddings": 80, "pad_token_id": 5}
        config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **words)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "base")
    if kind == "gpt2":
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "base")
    transformer = modules.Transformer(str(folder / "base"), max_seq_length=max_seq_length)
    parts = [transformer, modules.Pooling(transformer.get_embedding_dimension(), "mean"), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "model"))
    return str(folder / "model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy(tmp_path_factory.mktemp("toy"))


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def passages_of(rows: list[Row]) -> list[Row]:
    """The sample's contexts as passages; `p7` holds the answer of row 7."""
    return [{"id": f"p{row['id']}", "title": "", "text": row["context"]} for row in rows]


ROWS = EXAM.sample(40, 0)


def build(
    file: Path, out: Path, model: str, kind: str = "auto", shard: int = SHARD, **words: Any
) -> dict[str, Any]:
    settings = Settings(model, kind, "fp32", shard)
    return Builder(passages.find(str(file), "train", "main"), out, settings, threads=1, **words).make_index()


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != ".lock"}


@pytest.fixture(scope="module")
def built(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 40 passages: shards of 16, 16 and 8."""
    at = tmp_path_factory.mktemp("index")
    build(write(at / "passages.jsonl", passages_of(ROWS)), at / "index", model)
    return at / "index"


# vectors


def texts_of_many_lengths() -> list[str]:
    # 1, 4, 7 ... bytes, and three that are longer than the 64 the toy reads
    return ["abcdefghij"[i % 10] * (1 + 3 * i) for i in range(21)] + ["long " * 20] * 3


def test_float32_vectors_are_those_of_sentence_transformers(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr(embed_module, "TOKEN_BUDGET", 150)  # many micro-batches
    texts = texts_of_many_lengths()
    found = Embedder(model, "fp32").embed(texts, "passage")
    told = SentenceTransformer(model, device="cpu").encode(texts, batch_size=1)
    assert np.abs(found.vectors - told).max() < 2e-6  # float32 sums of 64 numbers in another order
    # 1 + 3 i is 61 at most, so only the three long ones are cut
    assert found.num_cut == 3


@pytest.mark.parametrize(
    # 80 places in the table; roberta's first stands behind that of its padding id, 5
    ("kind", "longest"),
    [("roberta", 74), ("gpt2", 80)],
)
def test_a_family_is_read_as_far_as_its_positions_reach(kind: str, longest: int, tmp_path: Path) -> None:
    embedder = Embedder(toy(tmp_path, kind=kind, max_seq_length=None), "fp32")
    assert embedder.max_length == longest
    texts = ["long " * 40, "short"]
    both = embedder.embed(texts, "passage")
    assert both.num_cut == 1
    alone = embedder.embed(texts[1:], "passage").vectors[0]
    assert np.abs(both.vectors[1] - alone).max() < 1e-5


def test_a_family_that_mixes_padding_into_the_words_embeds_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixes padding into the words"):
        Embedder(toy(tmp_path, kind="fnet"), "fp32")


def without(folder: str, part: str) -> str:
    """The same model, its file without the weights whose names hold `part`."""
    (file,) = Path(folder).rglob("model.safetensors")
    kept = {name: tensor for name, tensor in load_file(file).items() if part not in name}
    save_file(kept, file, metadata={"format": "pt"})
    return folder


def test_weights_that_would_be_random_are_refused_and_a_pooler_is_none_of_them(tmp_path: Path) -> None:
    """Nobody reads a pooler, and one that the file lacks is drawn anew at each load."""
    with pytest.raises(ValueError, match=r"lacks 2 of its weights \(encoder\.layer\.0\.output\.dense\.bias"):
        Embedder(without(toy(tmp_path / "one"), "layer.0.output.dense"), "fp32")
    folder = without(toy(tmp_path / "two"), "pooler")
    first, second = (Embedder(folder, "fp32").fingerprint() for _ in range(2))
    assert first == second


def test_minilm_in_bf16_points_where_float32_does() -> None:
    texts = [row["context"] for row in ROWS[:12]]
    exact = Embedder("minilm", "fp32").embed(texts, "passage").vectors
    rounded = Embedder("minilm", "bf16").embed(texts, "passage").vectors
    assert (exact * rounded).sum(1).min() > 0.999
    assert np.abs(np.linalg.norm(rounded, axis=1) - 1).max() < 1e-5


def test_every_text_is_in_one_micro_batch_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "TOKEN_BUDGET", 100)
    lengths = [5, 250, 30, 40, 40, 1]
    pieces = micro_batches(np.argsort([-length for length in lengths], kind="stable"), lengths)
    # 250 alone is over the budget; 40, 40 make 80 and a third would make 120; then 30, 5, 1 make 90
    assert [piece.tolist() for piece in pieces] == [[1], [3, 4], [2, 0, 5]]


# building

KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from lib.retrieval import build, nearest, passages
write = build.write_json
def killed(path, value):
    if path.name == "shard-00001.json":  # its vectors and texts are written, its record is not
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)
build.write_json = killed
source = passages.find({file!r}, "train", "main")
settings = build.Settings({model!r}, "auto", "fp32", {shard})
build.Builder(source, build.Path({out!r}), settings, threads=1).make_index()
"""


def test_a_build_killed_in_a_shard_goes_on_to_the_same_bytes(built: Path, model: str, tmp_path: Path) -> None:
    file, out = built.parent / "passages.jsonl", tmp_path / "index"
    code = KILLED.format(root=str(ROOT), file=str(file), out=str(out), model=model, shard=SHARD)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / "shard-00001.npy").exists() and not (out / "index.json").exists()
    with pytest.raises(ValueError, match="is not finished; run the scripts/index.py command"):
        open_index(str(out))
    first = (out / "shard-00000.npy").stat().st_mtime_ns
    build(file, out, model)
    assert bytes_of(out) == bytes_of(built)
    assert (out / "shard-00000.npy").stat().st_mtime_ns == first, "a whole shard is not made again"


def test_sigterm_stops_at_once_and_is_resumable(built: Path, model: str, tmp_path: Path) -> None:
    file, out = built.parent / "passages.jsonl", tmp_path / "index"
    builder = Builder(passages.find(str(file), "train", "main"), out, Settings(model, "auto", "fp32", SHARD))
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedError, match="SIGTERM; the shards so far are kept"):
        builder.make_index()
    assert exits.code_of(StoppedError()) == 75
    build(file, out, model)
    assert bytes_of(out) == bytes_of(built)


def test_a_finished_index_is_left_as_it_is(
    built: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_of(built)
    build(built.parent / "passages.jsonl", built, model)
    assert "is built already" in capsys.readouterr().out
    assert bytes_of(built) == before


def test_changed_passages_are_refused(built: Path, model: str, tmp_path: Path) -> None:
    file = write(tmp_path / "passages.jsonl", passages_of(ROWS))
    build(file, tmp_path / "index", model)
    os.utime(file)  # the same bytes at another time
    assert open_index(str(tmp_path / "index")).record["num_passages"] == 40
    file.write_text(file.read_text().replace("red", "tan"))  # the same size
    with pytest.raises(
        CheckError, match="changed since .* was built of it; put the old file back, or build it"
    ):
        open_index(str(tmp_path / "index"))
    with pytest.raises(CheckError, match="changed since .* was begun; put it back, or begin again"):
        build(file, tmp_path / "index", model)
    file.unlink()  # an index goes to another machine without its passages
    assert open_index(str(tmp_path / "index")).record["num_passages"] == 40


def test_what_was_damaged_is_built_again_by_the_same_command(model: str, tmp_path: Path) -> None:
    file, at = write(tmp_path / "passages.jsonl", passages_of(ROWS)), tmp_path / "index"
    build(file, at, model)
    before = bytes_of(at)
    for name in ("shard-00001.npy", "shard-00002.jsonl", "shard-00000.offsets.npy"):
        flip_last_bit(at / name)
        build(file, at, model)
        assert bytes_of(at) == before
    (at / "shard-00001.npy").unlink()
    (at / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json is not of format 1"):
        open_index(str(at))
    build(file, at, model)
    assert bytes_of(at) == before


def test_another_model_or_other_settings_are_refused(built: Path, model: str, tmp_path: Path) -> None:
    file = built.parent / "passages.jsonl"
    with pytest.raises(ValueError, match="model was .*model, is minilm"):
        build(file, built, "minilm")
    with pytest.raises(ValueError, match="kind was auto, is exact; shard_size was 16, is 8"):
        build(file, built, model, kind="exact", shard=8)
    with pytest.raises(ValueError, match="holds rows.txt but no index; name a new or an empty folder"):
        (tmp_path / "rows.txt").write_text("mine")
        build(file, tmp_path, model)


def test_edited_texts_and_doubled_ids_are_noticed(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "passages.jsonl", [*passages_of(ROWS), {"id": "p3", "text": "another text"}])
    build(file, tmp_path / "index", model)
    assert "1 passages have the id of another" in capsys.readouterr().out
    texts = tmp_path / "index" / "shard-00001.jsonl"
    texts.write_bytes(texts.read_bytes().replace(b"It", b"it"))  # of the same length: offsets still fit
    store = open_index(str(tmp_path / "index")).store
    assert store.read([0])[0].id == "p0"  # another shard
    with pytest.raises(CheckError, match=r"shard-00001\.jsonl is damaged"):
        store.read([SHARD])


def test_changed_weights_and_damaged_vectors_are_refused(tmp_path: Path) -> None:
    model = toy(tmp_path)
    build(write(tmp_path / "passages.jsonl", passages_of(ROWS[:5])), tmp_path / "index", model)
    index = open_index(str(tmp_path / "index"))
    Searcher(index)
    toy(tmp_path, seed=1)
    with pytest.raises(
        CheckError, match="is not the one .* was built with.*Put the old weights back, or build"
    ):
        index.embedder()
    with pytest.raises(ValueError, match="holds another|changed since|weights of"):
        build(tmp_path / "passages.jsonl", tmp_path / "index", "minilm")
    flip_last_bit(tmp_path / "index" / "shard-00000.npy")
    with pytest.raises(CheckError, match=r"shard-00000\.npy is damaged"):
        open_index(str(tmp_path / "index")).nearest()


def test_broken_lines_are_listed_and_too_many_refused(model: str, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in passages_of(ROWS)]
    lines[3], lines[7], lines[9] = "{broken", '{"id": "x"}', '{"text": "  "}'
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="3 of 40 rows cannot be used, more than --max-rejected 0.01 allows"):
        build(file, tmp_path / "index", model)
    said = read_lines(tmp_path / "index" / "rejected.jsonl")
    assert [line["where"] for line in said] == [f"passages.jsonl:{number}" for number in (4, 8, 10)]
    assert "broken JSON" in said[0]["reason"] and "the column text is missing" in said[1]["reason"]
    record = build(file, tmp_path / "index", model, max_rejected=0.08)  # 3 / 40 = 0.075
    assert (record["num_passages"], record["num_rejected"]) == (37, 3)
    found = open_index(str(tmp_path / "index")).store.read([2, 3, 36])
    # passage 3 stood on line 5: line 4 was broken
    assert [found[number].id for number in (2, 3, 36)] == ["p2", "p4", "p39"]


def test_a_file_without_passages_is_refused(model: str, tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no passages"):
        build(file, tmp_path / "index", model)
    with pytest.raises(ValueError, match="PASSAGES is a .jsonl, .csv, .parquet or .txt file, or a hub id"):
        build(tmp_path / "none.jsonl", tmp_path / "index", model)


def test_every_form_of_a_file_gives_the_same_passages(tmp_path: Path) -> None:
    texts = ["One thing.", "Another, with a comma."]
    write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (tmp_path / "a.csv").write_text('text\nOne thing.\n"Another, with a comma."\n')
    (tmp_path / "a.txt").write_text("\n".join([texts[0], "", texts[1]]))
    for end in ("jsonl", "csv", "txt"):
        source = passages.find(str(tmp_path / f"a.{end}"), "train", "main")
        assert [item.text for item in source.items(0) if isinstance(item, passages.Passage)] == texts
        assert len(list(source.items(1))) == 1  # a build goes on in the middle


def test_a_hub_data_set_is_read_as_a_stream(tmp_path: Path) -> None:
    """A folder of files takes the place of a repository: datasets reads both the same way."""
    write(
        tmp_path / "train.jsonl",
        [{"id": "7", "title": "T", "text": "one"}, {"id": "8", "title": "", "text": ""}],
    )
    source = passages.HubPassages(str(tmp_path), None, "train", "0" * 40)
    first, second = source.items(0)
    assert first == passages.Passage("7", "T", "one") and first.whole == "T. one"
    assert isinstance(second, readers.Rejected) and second.where == f"{tmp_path}/train:1"
    assert list(source.items(1)) == [second]


# searching


def test_a_passage_finds_itself(built: Path) -> None:
    index = open_index(str(built))
    vectors = np.concatenate([np.load(file) for file in sorted(built.glob("shard-?????.npy"))]).astype(
        np.float32
    )
    similarities, numbers = index.nearest().search(vectors, 100)  # there are only 40
    assert numbers.shape == (40, 40) and sorted(numbers[0]) == list(range(40))
    assert numbers[:, 0].tolist() == list(range(40)) and np.abs(similarities[:, 0] - 1).max() < 1e-3
    assert (np.diff(similarities) <= 0).all()


def test_alone_together_and_over_blocks_the_nearest_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(101, 24)).astype(np.float16)
    vectors[70] = vectors[5]  # equally near: the first passage first
    queries = np.concatenate([vectors[5:6], draw.normal(size=(19, 24))]).astype(np.float32)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :7]
    assert expected[0, :2].tolist() == [5, 70]
    index = nearest.open_exact([vectors[:64], vectors[64:]], 24)
    monkeypatch.setattr(nearest, "BLOCK", 25)  # 101 = 4 x 25 + 1: the last block holds fewer than 7
    similarities, numbers = index.search(queries, 7)
    assert (numbers == expected).all()
    assert np.allclose(similarities, np.take_along_axis(products, expected, 1), atol=1e-5)
    alone = [index.search(query[None], 7) for query in queries]
    assert (np.concatenate([found[1] for found in alone]) == expected).all()


def test_a_compressed_index_finds_most_of_what_an_exact_one_finds(tmp_path: Path) -> None:
    # 3,000 unit vectors around 50 centres, in three shards
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(50, 64))
    points = centres[draw.integers(0, 50, 3000)] + 0.7 * draw.normal(size=(3000, 64))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for shard in range(3):
        part = points[1000 * shard : 1000 * (shard + 1)].astype(np.float16)
        np.save(shard_file(tmp_path, shard, "vectors"), part)
    nearest.compress(tmp_path, [1000] * 3, lambda: None)
    assert (tmp_path / "index.faiss").stat().st_size < 3000 * 64 * 2  # less than the vectors themselves
    queries = (points[::60] + 0.02 * draw.normal(size=(50, 64))).astype(np.float32)
    files = [shard_file(tmp_path, shard, "vectors") for shard in range(3)]
    shards = Shards(tmp_path, 1000, [{"sha256": {"vectors": sha256_of(file)}} for file in files])
    _, exact = nearest.open_exact(map(shards.vectors, range(3)), 64).search(queries, 10)
    similar, found = nearest.open_compressed(tmp_path, shards).search(queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert shared > 0.9
    assert np.allclose(similar[:, 0], (queries * points[found[:, 0]]).sum(1), atol=1e-3), "true similarities"


def test_a_compressed_index_is_built_searched_and_checked(model: str, tmp_path: Path) -> None:
    words = [{"text": f"{i} of {i * i}"} for i in range(1000)]  # as few as can be compressed
    file, at = write(tmp_path / "passages.jsonl", words), tmp_path / "index"
    assert build(file, at, model, kind="ivfpq", shard=600)["kind"] == "ivfpq"
    index = open_index(str(at))
    asked = index.embedder().embed(["7 of 49", "990 of 980100"], "query").vectors
    similarities, numbers = index.nearest().search(asked, 5)
    texts = index.store.read(numbers[:, 0].tolist())
    assert [texts[number].text for number in numbers[:, 0].tolist()] == ["7 of 49", "990 of 980100"]
    assert np.allclose(similarities[:, 0], 1, atol=1e-3)
    flip_last_bit(at / "shard-00001.npy")
    with pytest.raises(CheckError, match=r"shard-00001\.npy is damaged"):
        open_index(str(at)).nearest().search(asked, 5)
    flip_last_bit(at / "index.faiss")
    with pytest.raises(CheckError, match=r"index\.faiss is damaged"):
        open_index(str(at)).nearest()


def flip_last_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = 'Dr. E. J. Kerins (1997) saw it, e.g. In Chile. "It was red." Then 3.5 years passed! Short one.'
    text += "\nA new line is here."
    assert sentences(text) == [
        'Dr. E. J. Kerins (1997) saw it, e.g. In Chile. "It was red."',  # three words stay with a neighbour
        "Then 3.5 years passed! Short one.",
        "A new line is here.",
    ]
    assert sentences("no stop at all") == ["no stop at all"]


def test_a_context_is_filled_to_its_last_word() -> None:
    ranked = ["one two three", "four five", "six seven"]
    assert fill(ranked, 4) == "one two three four"
    assert fill(ranked, 5) == "one two three four five"
    assert fill(ranked, 100) == "one two three four five six seven"


def asking(max_length: int = 512, **options: Any) -> Config:
    return Config(data=DataConfig(max_length=max_length), task=ChooseConfig(**options))


def test_a_stopped_retrieval_goes_on_where_it_was(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "QUERIES", 4)
    rows = [EXAM.to_example({**row, "context": None}) for row in ROWS[:10]]
    index, config = open_index(str(built)), asking(30, index_passages=3)
    whole = contexts.retrieve({"train": rows}, config, index, tmp_path / "whole", lambda: None)
    search, asked = Searcher.search, []

    def stopping(self: Searcher, queries: list[str], *words: Any) -> Any:
        asked.append(len(queries))
        if len(asked) == 2:
            raise StoppedError("now")
        return search(self, queries, *words)

    monkeypatch.setattr(Searcher, "search", stopping)
    with pytest.raises(StoppedError):
        contexts.retrieve({"train": rows}, config, index, tmp_path, lambda: None)
    (file,) = (tmp_path / contexts.CACHE).iterdir()
    with file.open("a") as handle:
        handle.write('{"id": "cut short')
    again = contexts.retrieve({"train": rows}, config, index, tmp_path, lambda: None)
    assert asked == [4, 4, 4, 2]  # ten queries in groups of four; the first one is not asked again
    assert again.lines == whole.lines
    third = contexts.retrieve({"train": rows}, config, index, tmp_path, lambda: None)
    assert asked == [4, 4, 4, 2] and third.lines == whole.lines
    # another length of context is another question
    contexts.retrieve({"train": rows}, asking(9, index_passages=3), index, tmp_path, lambda: None)
    assert asked == [4, 4, 4, 2, 4, 4, 2]


def test_contexts_are_the_same_again_without_doubles_and_within_budget(model: str, tmp_path: Path) -> None:
    twice = passages_of(ROWS) + [row | {"id": f"again {row['id']}"} for row in passages_of(ROWS)]
    build(write(tmp_path / "passages.jsonl", twice), tmp_path / "index", model)
    index = open_index(str(tmp_path / "index"))
    queries = [row["prompt"] for row in ROWS[:10]]
    first, second = (Searcher(index).search(queries, 6, 40) for _ in range(2))
    assert first == second
    for found in first:
        assert len(found.passages) == 6 and len(found.context.split()) == 40
        said = sentences(found.context)
        assert len(said) == len(set(said))
    # room for all: six passages are three texts, each of them twice, and every sentence is there once
    for found in Searcher(index).search(queries, 6, 1000):
        texts = {name.removeprefix("again ") for name, _ in found.passages}
        words = sum(len(ROWS[int(name[1:])]["context"].split()) for name in texts)
        assert len(found.context.split()) <= words


def test_minilm_finds_real_passages(tmp_path: Path) -> None:
    if not REAL_PASSAGES.exists() or not REAL_ROWS.exists():
        pytest.skip(f"no real rows in {REAL_PASSAGES.parent}")
    lines = REAL_PASSAGES.read_text().splitlines()[:48]  # those of the first question stand first
    (tmp_path / "passages.jsonl").write_text("\n".join(lines) + "\n")
    source = passages.find(str(tmp_path / "passages.jsonl"), "train", "main")
    Builder(source, tmp_path / "index", Settings("minilm", "exact", "auto", 32), threads=2).make_index()
    known = [json.loads(line) for line in lines]
    chosen = [passage for passage in known[8:48:8] if len(sentences(passage["text"])) > 1]
    first = EXAM.to_example(json.loads(REAL_ROWS.read_text().splitlines()[0]))
    queries = [contexts.query_of(first), *(sentences(passage["text"])[-1] for passage in chosen)]
    found = Searcher(open_index(str(tmp_path / "index"))).search(queries, 20, 120)
    assert "dark matter" in found[0].context
    # the last sentence of a passage finds its passage, and then stands first in the context
    near = [[name for name, _ in said.passages[:5]] for said in found[1:]]
    assert chosen and all(passage["id"] in names for passage, names in zip(chosen, near, strict=True))
    assert all(said.context.startswith(query) for said, query in zip(found[1:], queries[1:], strict=True))
    assert all(len(said.context.split()) == 120 for said in found)


# rows


def test_which_rows_get_a_context() -> None:
    ready = Example(id="1", question="q", options=["a", "b"], context=["mine"])
    bare = Example(id="2", question="q", options=["a", "b"])
    assert contexts.wanting([ready, bare], asking()) == [bare]
    assert contexts.wanting([ready, bare], asking(context="retrieved")) == [ready, bare]
    assert contexts.query_of(bare) == "q a b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--context", "retrieved"], "--context retrieved needs an index; add --index FOLDER"),
        (
            ["--context", "ready", "--index", "x"],
            "--context ready never asks --index .*/x; leave one of them out",
        ),
        (["--no-prompt", "--index", "x"], "--no-prompt leaves the contexts out"),
        (["--index-passages", "0"], "--index-passages is 0; it must be above 0"),
    ],
)
def test_contradictions_are_refused_at_once(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(EXAM.config, words, "test")


def test_an_index_is_named_by_its_full_path() -> None:
    assert parse(EXAM.config, ["--index", "x"], "test").task.index == str(Path("x").resolve())


def test_hits_and_errors_are_counted_by_row() -> None:
    # places of the gold passage: 1, 2, 4 of 4, not found; row 4 names none, row 5 was not searched
    gold = ["a", "b", "d", "z"]
    rows = [
        Example(id=str(i), passage_id=name, retrieved=["a", "b", "c", "d"]) for i, name in enumerate(gold)
    ]
    rows += [Example(id="4", retrieved=["a"]), Example(id="5", passage_id="a")]
    right = [1, 0, 1, 0, 1, 1]
    even = [0.5, 0.5]
    said = [
        Prediction(id=str(i), label=1, prediction=value, probabilities=even) for i, value in enumerate(right)
    ]
    choice = answers_of(EXAM)
    found = hits.summarize(choice, rows, said)
    assert found is not None and found["num_rows"] == 4
    # at 1: row 0; at 3: rows 0 and 1; at 4, all that were searched: rows 0, 1 and 2
    assert {name: score["value"] for name, score in found["scores"].items()} == {
        "hit@1": 0.25,
        "hit@3": 0.5,
        "hit@4": 0.75,
    }
    assert found["errors"] == {
        "found, right": 2,
        "found, wrong": 1,
        "not found, right": 0,
        "not found, wrong": 1,
    }
    assert "hit@3 0.5000" in hits.lines(found)[0]
    assert hits.summarize(choice, rows[4:], said) is None
    lost = hits.summarize(choice, rows[3:4], said)
    assert lost is not None and "'z'" in hits.warnings(lost, rows[3:4])[0]


FLAGS = ["--model", "tiny", "--init", "random", "--max-steps", "4", "--eval-every", "2", "--max-rows", "20"]


def config_of(data: Path, index: Path, runs: Path, *flags: str) -> Any:
    words = [*SHORT, *FLAGS, "--max-length", "200", "--data", str(data), "--index", str(index)]
    return parse(EXAM.config, [*words, "--index-passages", "4", "--runs-dir", str(runs), *flags], "test")


def test_a_run_with_an_index_stops_goes_on_and_scores_the_same(
    built: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [
        {k: v for k, v in row.items() if k != "context"} | {"passage_id": f"p{row['id']}"} for row in ROWS
    ]
    data, runs = write(tmp_path / "rows.jsonl", bare), tmp_path / "runs"
    assert exits.run(lambda: run.train(config_of(data, built, runs, "--stop-at", "2"))) == 75
    folder = only_run(runs)
    kept = read_lines(folder / "contexts.jsonl")
    assert len(kept) == len({line["id"] for line in kept}) and len(kept[0]["passages"]) == 4
    assert all(0 < len(line["context"].split()) <= 200 for line in kept)
    index = open_index(str(built))
    assert read_json(folder / "run.json")["fingerprints"]["index"] == index.fingerprint

    record = (built / "index.json").read_text()
    (built / "index.json").write_text(record.replace(index.fingerprint, "0" * 64))
    assert exits.run(lambda: run.train(config_of(data, built, runs))) == 3
    assert "the fingerprint of index changed since this run began" in capsys.readouterr().err
    (built / "index.json").write_text(record)
    assert exits.run(lambda: run.train(config_of(data, built, runs))) == 0
    assert only_run(runs) == folder
    assert read_lines(folder / "contexts.jsonl") == kept

    for found in read_json(folder / "scores.json")["splits"].values():
        said = found["retrieval"]
        assert list(said["scores"]) == ["hit@1", "hit@3", "hit@4"] and said["num_rows"] == found["num_rows"]
        assert sum(said["errors"].values()) == found["num_rows"]
    assert "retriever: hit@1" in (folder / "train.log").read_text()
    page = (folder / "report.html").read_text()
    assert "Retriever and reader" in page and "not found, wrong" in page

    # in a fresh process, from contexts.jsonl: the index may be gone
    shown = run_script(str(folder), script="evaluate.py")
    assert shown.returncode == 0, shown.stderr
    assert "the same to the last digit as training reported" in shown.stdout

    others = EXAM.sample(60, 1)[50:]  # none of them was trained on: their entries have other numbers
    file = write(
        tmp_path / "others.jsonl", [{k: v for k, v in row.items() if k != "context"} for row in others]
    )
    found = rescore(folder, None, OtherRows(str(file)), None)
    assert found.now["num_rows"] == 10
    assert len(read_lines(found.folder / "contexts.jsonl")) == 10

    # new rows are answered as the run's own were: with what the same index finds
    answers = predict(folder, OtherRows(str(file)), tmp_path / "said.jsonl", None, None)
    said = {line["id"]: line["probabilities"] for line in read_lines(answers.path)}
    scored = read_lines(found.folder / "predictions" / "data.jsonl")
    assert said == {line["id"]: line["probabilities"] for line in scored}
    assert read_lines(tmp_path / "said.contexts.jsonl") == read_lines(found.folder / "contexts.jsonl")


def test_rows_with_a_context_keep_it_unless_told(built: Path, tmp_path: Path) -> None:
    rows = [EXAM.to_example(row) for row in ROWS[:4]]
    del rows[2]["context"]
    index, file = open_index(str(built)), tmp_path / contexts.FILE
    config = asking(9, index_passages=2)
    auto = contexts.retrieve({"train": rows}, config, index, tmp_path, lambda: None).splits
    assert ["retrieved" in row for row in auto["train"]] == [False, False, True, False]
    assert auto["train"][0]["context"] == [ROWS[0]["context"]]
    config = asking(9, index_passages=2, context="retrieved")
    replaced = contexts.retrieve({"train": rows}, config, index, tmp_path, lambda: None)
    assert all(len(row["retrieved"]) == 2 for row in replaced.splits["train"])
    replaced.write(file)
    assert contexts.kept({"train": rows}, config, file) == replaced.splits
