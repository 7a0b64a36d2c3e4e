"""Room on a disk, and how fast what is written gets there."""

import os
import shutil
import threading
import time
from pathlib import Path

from lib.doctor.finding import FAIL, GB, MB, OK, Finding, judged

# A checkpoint of a base-sized model (110 million weights in float32, and AdamW's two moments) takes 1.3 GB; a
# run keeps three and the best one, and writes the next beside them: 6.6 GB.
LEAST_FOR_RUNS = 10e9
# A model of 8 billion weights in bf16 takes 16 GB; a data set is there twice, as downloaded and as Arrow.
LEAST_FOR_CACHE = 20e9
# At 50 MB/s such a checkpoint takes 26 s; saved every ten minutes (--save-minutes), that is 4 % of the time.
LEAST_SPEED = 50e6
BLOCK, MOST_BLOCKS, MOST_S = 1 << 24, 4, 1.5  # bytes; at most 64 MiB
ONE_AT_A_TIME = threading.Lock()  # two at once would share the disk


def runs(folder: str) -> Finding:
    """Where run folders are made."""
    return disk("runs-disk", Path(folder), LEAST_FOR_RUNS, "choose another disk with --runs-dir")


def cache() -> Finding:
    """Where models and data sets of the hub are kept."""
    from huggingface_hub import constants

    move = "export HF_HOME=/another/disk/huggingface"
    return disk("hub-cache", Path(constants.HF_HUB_CACHE), LEAST_FOR_CACHE, move)


def disk(name: str, folder: Path, least: float, elsewhere: str) -> Finding:
    """Write to the folder, or to the nearest one above it that is there."""
    at = folder.absolute()
    while not at.is_dir():
        at = at.parent
    free = shutil.disk_usage(at).free
    facts = {"folder": str(folder), "written_in": str(at), "free_bytes": free}
    try:
        with ONE_AT_A_TIME:
            speed = write_speed(at)
    except OSError as error:
        seen = f"{at} cannot be written ({error.strerror}), {free / GB:.1f} GB free"
        return Finding(name, FAIL, seen, f"make room or take the right to write there, or {elsewhere}", facts)
    seen = f"{folder}: {free / GB:,.1f} GB free, written and flushed at {speed / MB:,.0f} MB/s"
    room = f"less than {least / GB:g} GB: make room, or {elsewhere}" if free < least else ""
    slow = (
        f"slower than {LEAST_SPEED / MB:g} MB/s: {elsewhere}, to a local disk" if speed < LEAST_SPEED else ""
    )
    return judged(Finding(name, OK, seen, facts=facts | {"bytes_per_s": speed}), room, slow)


def write_speed(folder: Path) -> float:
    """Bytes a second to a new file, each block flushed to the disk. Raises OSError."""
    file, block = folder / f".doctor-{os.getpid()}-{time.monotonic_ns()}", os.urandom(BLOCK)
    written, begun_s = 0, time.perf_counter()
    try:
        with file.open("xb", buffering=0) as out:
            while written < MOST_BLOCKS * BLOCK and time.perf_counter() - begun_s < MOST_S:
                written += out.write(block)  # a disk that is nearly full takes a part, and then raises
                os.fsync(out.fileno())
    finally:
        file.unlink(missing_ok=True)
    return written / (time.perf_counter() - begun_s)
