"""The passages whose vectors are nearest to a query's: exact, or from a compressed index that stays on disk.

Vectors have length 1, so the largest inner product is the smallest Euclidean distance. FAISS writes plain
files (no pickle).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lib.base.files import replacing
from lib.retrieval.shards import COMPRESSED, Shards, shard_file

# passages; 384 numbers each are then 0.8 GB of memory and some 100 ms for a query alone, 20 among others
MOST_EXACT = 1_000_000
TOGETHER = 16  # from so many queries on, decoding the vectors once for all of them is faster
BLOCK = 16_384  # vectors decoded at a time
LEAST_COMPRESSED = 1000  # product quantization learns 256 codes for each part of a vector
SAMPLE_A_LIST = 64  # vectors a list is trained on; FAISS asks for 39 at least
RERANK = 8  # a compressed index gives this many times k passages, and their true vectors choose among them

Pairs = tuple[np.ndarray, np.ndarray]


class Nearest(Protocol):
    def search(self, queries: np.ndarray, k: int) -> Pairs:
        """(queries, dimension) -> similarities and passage numbers, both (queries, k), nearest first; of
        equally near ones the first passage. k is cut to the number of passages."""


@dataclass(frozen=True)
class Exact:
    """`codes` is FAISS's index of float16 numbers, the vectors as they are kept: half the bytes of float32,
    and a query alone costs what it takes to read them (100,000 vectors of 384, one core: 10 ms, not 40)."""

    codes: Any

    def search(self, queries: np.ndarray, k: int) -> Pairs:
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, self.codes.ntotal)
        if len(queries) < TOGETHER:
            similarities, numbers = self.codes.search(queries, k)
            return _nearest_first(similarities, numbers)
        faiss = _faiss()
        heap = faiss.ResultHeap(len(queries), k, keep_max=True)
        for begin in range(0, self.codes.ntotal, BLOCK):
            block = self.codes.reconstruct_n(begin, min(BLOCK, self.codes.ntotal - begin))
            similarities, numbers = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
            heap.add_result(similarities, numbers + begin)
        heap.finalize()
        return _nearest_first(heap.D, heap.I)


def open_exact(vectors: Iterable[np.ndarray], dimension: int) -> Exact:
    """All vectors in memory."""
    faiss = _faiss()
    codes = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for part in vectors:
        codes.add(part.astype(np.float32))
    return Exact(codes)


@dataclass(frozen=True)
class Compressed:
    """`codes` is FAISS's index, mapped from the disk; of its best candidates the true vectors are read."""

    codes: Any
    shards: Shards

    def search(self, queries: np.ndarray, k: int) -> Pairs:
        k = min(k, self.codes.ntotal)
        wanted = min(RERANK * k, self.codes.ntotal)
        similarities, numbers = self.codes.search(np.ascontiguousarray(queries, np.float32), wanted)
        for row, query in enumerate(queries):
            filled = numbers[row] >= 0  # -1: the lists that were looked into held fewer
            similarities[row] = -np.inf
            similarities[row, filled] = self._vectors(numbers[row, filled]) @ query
        similarities, numbers = _nearest_first(similarities, numbers)
        return similarities[:, :k], numbers[:, :k]

    def _vectors(self, numbers: np.ndarray) -> np.ndarray:
        vectors = np.empty((len(numbers), self.codes.d), np.float32)
        for shard in np.unique(numbers // self.shards.size):
            mine = numbers // self.shards.size == shard
            vectors[mine] = self.shards.vectors(int(shard))[numbers[mine] % self.shards.size]
        return vectors


def open_compressed(folder: Path, shards: Shards) -> Compressed:
    faiss = _faiss()
    codes = faiss.read_index(str(folder / COMPRESSED), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    codes.nprobe = max(8, codes.nlist // 16)
    return Compressed(codes, shards)


def _nearest_first(similarities: np.ndarray, numbers: np.ndarray) -> Pairs:
    order = np.lexsort((numbers, -similarities), axis=1)
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(numbers, order, 1)


def compress(folder: Path, sizes: list[int], between: Callable[[], None]) -> None:
    """Train an inverted file with product quantization on a sample of the shards' vectors, fill it shard by
    shard and write it. `between` runs between shards and may raise to stop."""
    faiss = _faiss()
    total, dimension = sum(sizes), int(np.load(shard_file(folder, 0, "vectors"), mmap_mode="r").shape[1])
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
        index.add(np.load(shard_file(folder, shard, "vectors")).astype(np.float32))
    with replacing(folder / COMPRESSED) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _sample(folder: Path, sizes: list[int], wanted: int) -> np.ndarray:
    """The same share of every shard, the same rows each time."""
    share, draw = min(1.0, wanted / sum(sizes)), np.random.default_rng(0)
    parts = []
    for shard, size in enumerate(sizes):
        rows = np.sort(draw.choice(size, max(1, round(share * size)), replace=False))
        parts.append(np.load(shard_file(folder, shard, "vectors"), mmap_mode="r")[rows].astype(np.float32))
    return np.concatenate(parts)


def _faiss() -> Any:
    """FAISS with as many threads as torch has. Queries that are searched together are to use matrix products:
    version 1.15 goes through all vectors for each of them instead (100,000 vectors, one core: 48 ms a query,
    not 3)."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = TOGETHER
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
