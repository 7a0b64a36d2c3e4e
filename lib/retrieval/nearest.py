"""The passages whose vectors are nearest to a query's: exact, or from a compressed index that stays on disk.

Vectors have length 1, so the largest inner product is the smallest Euclidean distance. FAISS writes plain
files (no pickle).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.files import replacing

MOST_EXACT = (
    1_000_000  # passages; 384 numbers each are then 1.5 GB of memory and some 150 ms a query and core
)
LEAST_COMPRESSED = 1000  # product quantization learns 256 codes for each part of a vector
SAMPLE_A_LIST = 64  # vectors a list is trained on; FAISS asks for 39 at least
RERANK = 8  # a compressed index gives this many times k passages, and their true vectors choose among them


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.npy"


@dataclass(frozen=True)
class Nearest:
    """`index` is FAISS's; `vectors` gives the true ones of some numbers, where the index only has codes."""

    index: Any
    vectors: Callable[[np.ndarray], np.ndarray] | None = None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(queries, dimension) -> similarities and passage numbers, both (queries, k), nearest first; of
        equally near ones the first passage. k is cut to the number of passages."""
        k = min(k, self.index.ntotal)
        wanted = k if self.vectors is None else min(RERANK * k, self.index.ntotal)
        similarities, numbers = self.index.search(np.ascontiguousarray(queries, np.float32), wanted)
        for row, query in enumerate(queries if self.vectors is not None else ()):
            assert self.vectors is not None
            found = numbers[row] >= 0  # -1: the lists that were looked into held fewer
            similarities[row] = -np.inf
            similarities[row, found] = self.vectors(numbers[row, found]) @ query
        order = np.lexsort((numbers, -similarities), axis=1)[:, :k]
        return np.take_along_axis(similarities, order, 1), np.take_along_axis(numbers, order, 1)


def open_exact(folder: Path, num_shards: int, dimension: int) -> Nearest:
    """All vectors in memory."""
    faiss = _faiss()
    index = faiss.IndexFlatIP(dimension)
    for shard in range(num_shards):
        index.add(np.load(shard_file(folder, shard)).astype(np.float32))
    return Nearest(index)


def open_compressed(folder: Path, shard_size: int) -> Nearest:
    """Codes mapped from the disk; of the best candidates the true vectors are read."""
    faiss = _faiss()
    index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    index.nprobe = max(8, index.nlist // 16)

    def vectors(numbers: np.ndarray) -> np.ndarray:
        found = np.empty((len(numbers), index.d), np.float32)
        for shard in np.unique(numbers // shard_size):
            mine = numbers // shard_size == shard
            stored = np.load(shard_file(folder, int(shard)), mmap_mode="r")
            found[mine] = stored[numbers[mine] % shard_size]
        return found

    return Nearest(index, vectors)


def compress(folder: Path, sizes: list[int], between: Callable[[], None]) -> None:
    """Train an inverted file with product quantization on a sample of the shards' vectors, fill it shard by
    shard and write it. `between` runs between shards and may raise to stop."""
    faiss = _faiss()
    total, dimension = sum(sizes), int(np.load(shard_file(folder, 0), mmap_mode="r").shape[1])
    num_lists = max(1, min(int(4 * total**0.5), total // 39))
    parts = next(parts for parts in range(max(1, dimension // 8), 0, -1) if dimension % parts == 0)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimension), dimension, num_lists, parts, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # small ones: no warning
    index.cp.max_points_per_centroid = SAMPLE_A_LIST
    index.train(_sample(folder, sizes, max(SAMPLE_A_LIST * num_lists, 256 * 64)))
    for shard in range(len(sizes)):
        between()
        index.add(np.load(shard_file(folder, shard)).astype(np.float32))
    with replacing(folder / "index.faiss") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _sample(folder: Path, sizes: list[int], wanted: int) -> np.ndarray:
    """The same share of every shard, the same rows each time."""
    share, draw = min(1.0, wanted / sum(sizes)), np.random.default_rng(0)
    parts = []
    for shard, size in enumerate(sizes):
        rows = np.sort(draw.choice(size, max(1, round(share * size)), replace=False))
        parts.append(np.load(shard_file(folder, shard), mmap_mode="r")[rows].astype(np.float32))
    return np.concatenate(parts)


def _faiss() -> Any:
    """FAISS with as many threads as torch has. From 20 queries on it is to use matrix products: version 1.15
    goes through all vectors for each query instead (100,000 vectors, one core: 48 ms a query, not 3)."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 20
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
