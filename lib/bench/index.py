"""What `scripts/bench.py index` measures: embedding beside SentenceTransformer.encode, the memory of builds
of two sizes, and exact search.

Both embed the same passages in turn, again and again; ratios are taken within a round. On
a busy machine the clock says little, so processor seconds are printed too.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.base.files import write_lines
from lib.bench.options import Options
from lib.bench.rounds import ROOT, heading
from lib.models import backbone
from lib.retrieval import nearest, passages
from lib.retrieval.embed import Embedder
from lib.retrieval.passages import Passage
from lib.retrieval.search import QUERIES

BATCHES = (16, 32, 64, 128)  # tried for encode; the one that takes the fewest processor seconds is used
CHECKED = 64  # vectors held against float32
SEARCHED, DIMENSION = 100_000, 384
SHARDS = 4  # of the smaller build
Embed = Callable[[list[str]], np.ndarray]
Took = tuple[float, float]  # seconds by the clock, seconds of the processor


def main(asked: Options) -> None:
    """Print everything."""
    torch.set_num_threads(asked.threads)
    heading(asked.threads)
    texts = texts_of(asked.source, asked.num_rows)
    embedder, model = Embedder("minilm", "bf16"), encoder()
    arms: dict[str, Embed] = {"ours": lambda some: embedder.embed(some, "passage").vectors}
    tried = {size: clock(lambda size=size: encode(model, texts, size)) for size in (BATCHES[0], *BATCHES)}  # type: ignore[misc]
    best = min(tried, key=lambda size: tried[size][1])
    arms[f"encode, batches of {best}"] = lambda some: encode(model, some, best)
    exact = Embedder("minilm", "fp32").embed(texts[:CHECKED], "passage").vectors
    for name, embed in arms.items():
        print(f"{name}: least cosine to float32 {cosine(embed(texts[:CHECKED]), exact):.5f}", flush=True)
    compare(arms, texts, asked.num_rounds)
    build_memory(texts, asked.threads)
    search_speed()


def compare(arms: dict[str, Embed], texts: list[str], rounds: int) -> None:
    """Passages a second of each arm, and the ratios of the first to the others."""
    by_arm: dict[str, list[Took]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, embed in arms.items():
            by_arm[name].append(clock(lambda embed=embed: embed(texts)))  # type: ignore[misc]
    first = by_arm[next(iter(arms))]
    for name, runs in by_arm.items():
        for place, words in enumerate(("second", "processor second")):
            rate = len(texts) / statistics.median(run[place] for run in runs)
            ratios = [run[place] / ours[place] for run, ours in zip(runs, first, strict=True)]
            print(f"{name}: {rate:.1f} passages a {words}", flush=True)
            if runs is not first:
                print(f"  ours is {statistics.median(ratios):.2f} times as fast, each {np.round(ratios, 2)}")


def clock(function: Callable[[], Any]) -> Took:
    before = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - before[0], time.process_time() - before[1]


def cosine(vectors: np.ndarray, exact: np.ndarray) -> float:
    """The least one of the rows'."""
    vectors = vectors.astype(np.float32)
    return float(((vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1)).min())


def texts_of(data: str, rows: int) -> list[str]:
    """Passages from all over the file, not its beginning alone."""
    source = passages.find(data, "train", "main")
    texts = [item.whole for item in source.items(0) if isinstance(item, Passage)]
    return texts[:: max(1, len(texts) // rows)][:rows]


def encoder() -> Any:
    """The library's own way, with weights in bf16."""
    from sentence_transformers import SentenceTransformer

    words: Any = {"model_kwargs": {"dtype": torch.bfloat16, "use_safetensors": True}, "device": "cpu"}
    return SentenceTransformer(str(backbone.minilm_folder()), **words)


def encode(model: Any, texts: list[str], batch: int) -> np.ndarray:
    """It sorts by length itself."""
    vectors: np.ndarray = model.encode(texts, batch_size=batch, show_progress_bar=False)
    return vectors


def build_memory(texts: list[str], threads: int) -> None:
    """Peak memory of scripts/index.py for the passages, and for four times as many: the same again, so that
    no longer one is among them."""
    size = max(1, len(texts) // SHARDS)
    for times in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "passages.jsonl"
            write_lines(file, ({"text": text} for _ in range(times) for text in texts))
            words = [file, Path(folder) / "index", "--shard-size", size, "--threads", threads]
            index = subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "index.py"), *map(str, words)],
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(index.pid, 0)
        if status:
            raise RuntimeError(f"scripts/index.py ended with {os.waitstatus_to_exitcode(status)}")
        print(
            f"scripts/index.py, {times * len(texts)} passages in shards of {size}: peak "
            f"{usage.ru_maxrss / 2**20:.2f} GiB",
            flush=True,
        )


def search_speed() -> None:
    """Milliseconds a query among random vectors, on one thread."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(SEARCHED, DIMENSION)).astype(np.float16)
    queries = draw.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
    index = nearest.open_exact([vectors], DIMENSION)
    print(f"exact search among {SEARCHED:,} passages, one thread, load {os.getloadavg()[0]:.1f}:")
    for size, words in ((QUERIES, f"{QUERIES} together, as rows are searched"), (1, "one by one")):
        runs = [
            clock(lambda part=queries[begin : begin + size]: index.search(part, 20))  # type: ignore[misc]
            for begin in range(0, QUERIES, size)
            for _ in range(3 if size > 1 else 1)
        ]
        wall, cpu = (1000 * statistics.median(column) / size for column in zip(*runs, strict=True))
        print(f"  {words}: {wall:.1f} ms a query, {cpu:.1f} ms of the processor", flush=True)
