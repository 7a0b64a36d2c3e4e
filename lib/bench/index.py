"""What `scripts/bench.py index` measures: embedding beside SentenceTransformer.encode, and exact search.

Arms run in turn, each in a process of its own; ratios are taken within a round and their median printed. On
a busy machine the clock says little, so processor seconds are printed too.
"""

import json
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

from lib.models import backbone
from lib.retrieval import nearest, passages
from lib.retrieval.embed import Embedder
from lib.retrieval.passages import Passage

ROOT = Path(__file__).resolve().parents[2]
BATCHES = (16, 32, 64)  # tried for encode, the fastest is taken
SEARCHED, DIMENSION, QUERIES = 100_000, 384, 50


def main(data: str, rows: int, rounds: int, threads: int) -> None:
    """Print everything."""
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {threads} threads, {os.cpu_count()} cores, load {load:.1f}")
    common = {"data": data, "rows": rows, "threads": threads}
    tuned = arm(common | {"arm": "tune"})
    print(f"  encode in bf16, passages/s by batch size: {tuned['rates']}", flush=True)
    orders = {"ours": {"arm": "ours"}, "encode": {"arm": "encode", "batch": tuned["best"]}}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in orders}
    for number in range(rounds):
        for name, order in orders.items():
            found[name].append(arm(common | order))
            print(f"  round {number} {name}: {found[name][-1]}", flush=True)
    for name, runs in found.items():
        rate, cpu, cosine = (
            statistics.median(run[key] for run in runs) for key in ("rate", "cpu_rate", "cosine")
        )
        print(
            f"{name:8} {rate:8.1f} passages/s {cpu:8.1f} passages a processor second, "
            f"least cosine to float32 {cosine:.6f}"
        )
    for key, words in (("rate", "by the clock"), ("cpu_rate", "by processor seconds")):
        ratios = [ours[key] / other[key] for ours, other in zip(found["ours"], found["encode"], strict=True)]
        print(
            f"ours / encode, {words}: {statistics.median(ratios):.2f}, each {[round(r, 2) for r in ratios]}"
        )
    said = arm(common | {"arm": "search", "threads": 1})
    print(
        f"exact search, {SEARCHED:,} passages, one thread: {said['single_ms']:.1f} ms a query one by one, "
        f"{said['together_ms']:.1f} ms for {QUERIES} together (load {said['load']:.1f})"
    )


def arm(order: dict[str, Any]) -> dict[str, Any]:
    """Run one arm in a process of its own; its answer."""
    words = [sys.executable, "-m", "lib.bench.index", json.dumps(order)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{order['arm']} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def texts_of(order: dict[str, Any]) -> list[str]:
    """Passages from all over the file, not its beginning alone."""
    source = passages.find(str(Path(order["data"]).resolve()), None, "train", "main")
    found = [item.whole for item in source.items(0) if isinstance(item, Passage)]
    return found[:: max(1, len(found) // order["rows"])][: order["rows"]]


def measure(embed: Callable[[list[str]], np.ndarray], texts: list[str]) -> dict[str, Any]:
    """Passages a second by the clock and by the processor, after a warm-up, and the least cosine of 32 of
    them to what float32 gives."""
    embed(texts[:64])
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    vectors = embed(texts)
    took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    exact = Embedder("minilm", "fp32").embed(texts[:32], "passage").vectors
    some = vectors[:32].astype(np.float32)
    cosine = float((some * exact).sum(1).min() / np.linalg.norm(some, axis=1).max())
    return {"rate": len(texts) / took_s, "cpu_rate": len(texts) / took_cpu_s, "cosine": cosine}


def ours(order: dict[str, Any]) -> dict[str, Any]:
    embedder = Embedder("minilm", "bf16")
    return measure(lambda texts: embedder.embed(texts, "passage").vectors, texts_of(order))


def encode(order: dict[str, Any]) -> dict[str, Any]:
    """SentenceTransformer.encode with weights in bf16; it sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    words: Any = {"model_kwargs": {"dtype": torch.bfloat16, "use_safetensors": True}, "device": "cpu"}
    model = SentenceTransformer(str(backbone.minilm_folder()), **words)
    return measure(
        lambda texts: model.encode(texts, batch_size=order["batch"], show_progress_bar=False), texts_of(order)
    )


def tune(order: dict[str, Any]) -> dict[str, Any]:
    """The batch size that serves encode best."""
    some = order | {"rows": min(order["rows"], 256)}
    rates = {batch: encode(some | {"batch": batch})["cpu_rate"] for batch in BATCHES}
    return {
        "best": max(rates, key=rates.__getitem__),
        "rates": {size: round(rate, 1) for size, rate in rates.items()},
    }


def search(order: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds a query among SEARCHED random vectors."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(SEARCHED, DIMENSION)).astype(np.float16)
    queries = draw.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.save(nearest.shard_file(Path(folder), 0), vectors)
        index = nearest.open_exact(Path(folder), 1, DIMENSION)
    index.search(queries[:1], 20)
    singles = []
    for query in queries:
        began_s = time.perf_counter()
        index.search(query[None], 20)
        singles.append(time.perf_counter() - began_s)
    began_s = time.perf_counter()
    index.search(queries, 20)
    together_s = (time.perf_counter() - began_s) / QUERIES
    return {"single_ms": 1000 * statistics.median(singles), "together_ms": 1000 * together_s}


ARMS = {"ours": ours, "encode": encode, "tune": tune, "search": search}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    print(json.dumps(ARMS[asked["arm"]](asked) | {"load": os.getloadavg()[0]}), flush=True)
