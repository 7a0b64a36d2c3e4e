"""A checkpoint is whole or not used: every flipped bit, cut, and missing file is noticed; nothing
half-written stays."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lib.base.exits import RepeatsError
from lib.base.files import write_json
from lib.base.tensor_file import write_tensors
from lib.training import checkpoint
from lib.training.checkpoint import Snapshot
from lib.training.progress import Progress
from tests.tools import ROOT


def fill(folder: Path) -> None:
    (folder / "backbone").mkdir()
    tensors = {"weight": torch.arange(600, dtype=torch.float32), "half": torch.ones(33, dtype=torch.bfloat16)}
    write_tensors(folder / "backbone" / "model.safetensors", tensors)
    write_tensors(folder / "optimizer.safetensors", {"step": torch.tensor(3.0)})
    write_json(folder / "state.json", {"step": 1})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return checkpoint.write(tmp_path / "checkpoints", 7, fill)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_tensor_file_is_read_back_bit_for_bit_by_the_library(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {
        "scalar": torch.tensor(1.5),
        "matrix": torch.randn(3, 5).t(),  # not contiguous
        "half": torch.randn(7).bfloat16(),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "ids": torch.tensor([1, 2**40]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_a_written_checkpoint_verifies_and_leaves_nothing_beside_it(written: Path) -> None:
    assert checkpoint.verify(written) is None
    assert [path.name for path in written.parent.iterdir()] == ["step-000007"]


@pytest.mark.parametrize("flips", [300, pytest.param(10_000, marks=pytest.mark.faults)])
def test_every_flipped_bit_is_noticed(written: Path, flips: int) -> None:
    """Over all files, the manifest included, weighted by size."""
    draw = random.Random(0)
    files = files_of(written)
    for _ in range(flips):
        file = draw.choices(files, [path.stat().st_size for path in files])[0]
        honest = file.read_bytes()
        bit = draw.randrange(8 * len(honest))
        damaged = bytearray(honest)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert checkpoint.verify(written) is not None, f"{file.name} bit {bit}"
        file.write_bytes(honest)
    assert checkpoint.verify(written) is None


def test_every_cut_and_every_missing_file_is_noticed_and_the_one_before_is_used(written: Path) -> None:
    newer = checkpoint.write(written.parent, 9, fill)
    for file in files_of(newer):
        honest = file.read_bytes()
        for size in (0, len(honest) // 2, len(honest) * 99 // 100, len(honest) - 1, None):
            said: list[str] = []
            file.unlink() if size is None else file.write_bytes(honest[:size])
            assert checkpoint.newest_verified(written.parent, said.append) == written
            assert "step-000009 is not used" in said[0]
            file.write_bytes(honest)
    assert checkpoint.newest_verified(written.parent, print) == newer


def test_all_bad_stops_with_exit_4_and_none_at_all_is_a_fresh_start(written: Path) -> None:
    (written / "state.json").write_text("{}")
    with pytest.raises(RepeatsError, match="--resume never"):
        checkpoint.newest_verified(written.parent, lambda text: None)
    assert checkpoint.newest_verified(written.parent / "nowhere", print) is None


def test_a_renamed_checkpoint_is_not_used(written: Path) -> None:
    renamed = written.rename(written.with_name("step-000008"))
    assert "written as step 7" in str(checkpoint.verify(renamed))


def test_a_newer_format_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    assert "format 1" in str(checkpoint.verify(written))


def test_newest_three_and_the_best_are_kept_and_links_point_to_them(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        checkpoint.write(tmp_path, step, fill)
    checkpoint.link(tmp_path, "best", 1)
    checkpoint.link(tmp_path, "last", 4)
    checkpoint.link(tmp_path, "last", 5)
    checkpoint.prune(tmp_path, keep=3, best=1, current=5)
    assert [checkpoint.step_of(path) for path in checkpoint.all_in(tmp_path)] == [5, 4, 3, 1]
    assert (tmp_path / "last").resolve().name == "step-000005"
    assert (tmp_path / "best" / "state.json").exists()


def test_a_place_where_no_link_can_be_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path, 1, fill)
    checkpoint.write(tmp_path, 2, fill)
    shutil.copytree(tmp_path / "step-000001", tmp_path / "last")  # a copy that followed the link
    checkpoint.link(tmp_path, "last", 2)
    assert (tmp_path / "last").is_symlink() and (tmp_path / "last").resolve().name == "step-000002"

    def without_links(*words: object, **more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", without_links)
    monkeypatch.setattr(Path, "symlink_to", without_links)
    checkpoint.link(tmp_path, "best", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000001", "step-000002"]


def test_what_a_kill_left_behind_is_cleaned_and_never_counted(written: Path) -> None:
    above = written.parent
    shutil.copytree(written, above / ".writing-step-000008")
    shutil.copytree(written, above / ".deleting-step-000006")
    assert checkpoint.all_in(above) == [written]
    checkpoint.clean(above)
    assert [path.name for path in above.iterdir()] == ["step-000007"]


def test_nan_in_a_weight_is_never_saved(tmp_path: Path) -> None:
    bad = {"layer.weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(RepeatsError, match="layer.weight"):
        Snapshot.of(bad.items(), ())
    huge = {"w": torch.full((10,), 3e38)}  # its sum overflows float32, and yet every number is finite
    assert Snapshot.of(huge.items(), huge.items()).optimizer["w"].isfinite().all()


KILLED_WRITE = """
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from lib.training import checkpoint
from lib.training.progress import Progress
from tests.test_checkpoint import fill
calls = [0]
def watch(event, arguments):
    # the audit hook sees every open, rename, mkdir and remove: die at the n-th
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.symlink"):
        if {folder!r} in str(arguments[0]):
            calls[0] += 1
            if calls[0] == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
folder = Path({folder!r})
checkpoint.write(folder, 3, fill)
checkpoint.link(folder, "last", 3)
checkpoint.prune(folder, 1, None, 3)
print("done", calls[0])
"""


@pytest.mark.faults
@pytest.mark.parametrize("before", [2, 3])
def test_kill_9_at_every_file_operation_of_a_save_leaves_a_whole_checkpoint(
    before: int, tmp_path: Path
) -> None:
    """Step 3 is saved after step 2, or once more in its own place."""
    for at in range(1, 200):
        folder = tmp_path / str(at)
        checkpoint.write(folder, before, fill)
        script = KILLED_WRITE.format(root=str(ROOT), folder=str(folder), at=at)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert checkpoint.newest_step(folder) in (2, 3)
        checkpoint.clean(folder)
        newest = checkpoint.newest_verified(folder, print)
        assert newest is not None and checkpoint.step_of(newest) in (2, 3)
        assert not list(folder.glob(".*ing-*"))
        if done.stdout.startswith("done"):
            assert at > 20  # it really died at more than twenty places before
            return


def test_a_kill_while_a_checkpoint_of_the_same_step_is_replaced_loses_neither(written: Path) -> None:
    """Between two renames: the old one is out of sight, the new one has no name yet."""
    written.rename(written.with_name(".deleting-step-000007"))
    assert checkpoint.newest_step(written.parent) == 7
    checkpoint.clean(written.parent)
    assert checkpoint.verify(written) is None
    assert [path.name for path in written.parent.iterdir()] == ["step-000007"]


def test_pruning_counts_no_newer_checkpoint_that_was_passed_over(tmp_path: Path) -> None:
    for step in (2, 3, 4, 9):  # 9 is damaged: the run fell back to 3 and has just saved 4
        checkpoint.write(tmp_path, step, fill)
    checkpoint.prune(tmp_path, 1, 2, current=4)
    assert [checkpoint.step_of(path) for path in checkpoint.all_in(tmp_path)] == [9, 4, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_the_older_checkpoint_and_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        older = checkpoint.write(disk, 1, fill)

        def too_much(folder: Path) -> None:
            write_tensors(folder / "big.safetensors", {"w": torch.zeros(1 << 20)})

        with pytest.raises(
            RepeatsError, match="(?s)No space left.*older checkpoints are intact .step-000001"
        ):
            checkpoint.write(disk, 2, too_much)
        assert checkpoint.verify(older) is None
        assert [path.name for path in disk.iterdir()] == ["step-000001"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


BEFORE = """{"step": 40, "best_step": 20, "best_score": 0.5, "evaluation_due": true, "skipped_in_a_row": 1,
"evaluations": [{"step": 20, "scores": {"log_loss": 0.5}}], "skipped": 3,
"seconds": 7.5, "token_budget": 4096}"""


def test_the_state_of_a_checkpoint_written_before_is_read_and_an_unknown_key_is_not_passed_over() -> None:
    state = json.loads(BEFORE)
    expected = Progress(
        40, best_step=20, best_score=0.5, evaluation_due=True, skipped_in_a_row=1, seconds=7.5
    )
    assert Progress.of_state(state) == expected
    assert Progress.of_state(asdict(expected) | {"token_budget": 4096}) == expected
    with pytest.raises(TypeError, match="surprise"):
        Progress.of_state(state | {"surprise": 1})
