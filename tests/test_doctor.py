"""scripts/doctor.py: what is wrong with a machine is seen, by faults that are really there."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib import recipe
from lib.doctor import devices, group, machine, online, packages, runner
from lib.doctor.finding import FAIL, OK, Finding
from lib.doctor.order import Order, measured
from lib.doctor.runner import Check
from tests.hub_server import COMMIT, LATE_S, hub_server
from tests.tools import ROOT, command, point_hub_at

CANARY = "hf_canary_that_nobody_may_see"
ALONE = {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0", "WANDB_MODE": "online", "OMP_NUM_THREADS": "1"}
Seen = dict[str, dict[str, Any]]
LIMIT_S = 90.0


Done = subprocess.CompletedProcess[str]


def start(*words: str, env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    """In a fresh interpreter: what it imports is what is looked at."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*words, script="doctor.py"), env=ours | ALONE | env, **pipes, **more)


def ended(process: subprocess.Popen[str]) -> Done:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def doctor(*words: str, env: dict[str, str]) -> Done:
    return ended(start(*words, env=env))


def by_name(done: Done) -> Seen:
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["checks"]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A hub with a small model and rows for arena."""
    import transformers

    from lib.models import tiny

    root = tmp_path_factory.mktemp("hub")
    tokenizer = tiny.tokenizer()
    shape: Any = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**shape, vocab_size=len(tokenizer), intermediate_size=64, pad_token_id=0)
    for name in ("small", "gated-files", "lacks-weights"):
        folder = root / "models" / "org" / name
        transformers.BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (root / "models" / "org" / "lacks-weights" / "model.safetensors").unlink()
    rows = root / "datasets" / "org" / "rows"
    rows.mkdir(parents=True)
    lines = [json.dumps(row) for row in recipe.load("arena").sample(20, 0)]
    (rows / "train.jsonl").write_text("\n".join(lines))
    with hub_server(root) as server:
        yield server


# a machine without faults, and one with many


@pytest.fixture(scope="module")
def well(both: tuple[Done, Done]) -> Done:
    return both[0]


@pytest.fixture(scope="module")
def sick(both: tuple[Done, Done]) -> Done:
    return both[1]


def test_a_machine_without_faults_ends_with_0_and_every_check_has_answered(
    well: Done,
) -> None:
    seen = by_name(well)
    names = ["python", "packages", "programs", "cores", "memory", "shm", "files", "runs-disk", "hub-cache"]
    names += ["clock", "hub", "wandb", "all-reduce", "gpu", "bf16", "nf4", "deepspeed"]
    assert list(seen) == names
    fails = {name: one for name, one in seen.items() if one["status"] == "fail"}
    assert well.returncode == (3 if fails else 0)
    assert not fails, fails
    assert all(one["seen"] and bool(one["advice"]) == (one["status"] != "ok") for one in seen.values())
    assert json.loads(well.stdout)["seconds"] < 60, "30 s alone on two cores"
    assert seen["all-reduce"]["facts"]["backend"] == ("nccl" if torch.cuda.is_available() else "gloo")


def test_offline_nobody_is_asked(well: Done) -> None:
    seen = by_name(well)
    assert [seen[name]["seen"] for name in ("hub", "wandb")] == [
        "not asked: HF_HUB_OFFLINE is set",
        "not asked: WANDB_MODE is offline",
    ]
    assert "could not be compared: HF_HUB_OFFLINE is set" in seen["clock"]["seen"]


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """1 MiB in all."""
    folder = tmp_path_factory.mktemp("full")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def both(
    hub: tuple[str, list[str]], full_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Done, Done]:
    """This machine as it is; and with a driver whose GPU torch cannot use, broken packages, a full disk, few
    open files, no tmux, a clock that is wrong, tokens that are refused. At the same time, to save some."""
    well = start("--json", env={"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"})
    folder = tmp_path_factory.mktemp("sick")
    broken = {"bitsandbytes": "raise ImportError('libcudart.so.99: no such file')"}
    broken |= {"deepspeed": "raise ModuleNotFoundError('none', name='deepspeed')"}
    for name, text in broken.items():
        (folder / "packages" / name).mkdir(parents=True)
        (folder / "packages" / name / "__init__.py").write_text(text)
    (folder / "bin").mkdir()
    program(folder / "bin" / "nvidia-smi", "echo 'NVIDIA A40, 46068 MiB, 550.54.15'")
    (folder / "bin" / "ssh").symlink_to("/bin/true")
    environment = {"PATH": str(folder / "bin"), "PYTHONPATH": str(folder / "packages")}
    environment |= {"HF_ENDPOINT": f"{hub[0]}/late", "HF_TOKEN": CANARY, "HF_HOME": str(folder / "cache")}
    environment |= {"WANDB_BASE_URL": hub[0], "WANDB_API_KEY": CANARY}
    only = ["programs", "files", "runs-disk", "hub-cache", "clock", "hub", "wandb", "gpu", "nf4", "deepspeed"]

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    words = ("--json", "--runs-dir", str(full_disk / "runs"), "--only", *only)
    sick = start(*words, env=environment, preexec_fn=few_files)
    return ended(well), ended(sick)


@pytest.mark.parametrize(
    ("name", "status", "seen", "advice"),
    [
        ("programs", "warn", "tmux is missing.*rsync is missing", "apt-get install tmux rsync"),
        ("files", "warn", "256 files may be open", "ulimit -n"),
        ("runs-disk", "fail", "cannot be written .No space left on device", "--runs-dir"),
        ("clock", "fail", "2 hours ahead of the hub's", "set the clock"),
        ("hub", "fail", "refuses the token", "hf auth login"),
        ("wandb", "fail", "refuses the key", "wandb login"),
        (
            "nf4",
            "fail",
            "bitsandbytes is installed, but cannot be imported: ImportError: libcudart",
            "setup.sh",
        ),
        ("deepspeed", "warn", "deepspeed is not installed", "--strategy ddp"),
    ],
)
def test_what_is_wrong_is_seen_and_what_to_type_is_said(
    sick: Done, name: str, status: str, seen: str, advice: str
) -> None:
    found = by_name(sick)[name]
    assert found["status"] == status, found
    assert re.search(seen, found["seen"]), found
    assert advice in found["advice"], found
    assert sick.returncode == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_gpu_that_torch_cannot_use_fails_with_what_to_install(
    sick: Done,
) -> None:
    found = by_name(sick)["gpu"]
    assert found["status"] == "fail" and "setup.sh" in found["advice"], found
    assert "NVIDIA A40 (46068 MiB, driver 550.54.15)" in found["seen"]
    assert ("is a build without CUDA" in found["seen"]) == (torch.version.cuda is None)


def test_no_token_is_ever_said(sick: Done) -> None:
    assert CANARY not in sick.stdout + sick.stderr


# one by one


def test_a_wrong_pin_and_a_missing_package_are_named(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("torch==1.0.0   # old\nnumpy==0.1\nno-such-package==1.0\n")
    found = packages.packages(file)
    assert found.status == "warn" and found.facts["missing"] == ["no-such-package"]
    for name in ("torch", "numpy"):
        assert re.search(rf"{name} [\d.+\w]+ instead of", found.seen), found.seen
    assert packages.packages().facts["missing"] == [] or packages.packages().status != "ok"


def test_a_package_without_which_nothing_trains_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "NEEDED", ("no-such-package",))
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\n")
    assert packages.packages(tmp_path / "requirements.txt").status == "fail"


def test_a_clock_before_the_newest_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:9", offline=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").touch()
    assert online.clock(tmp_path).status == "ok"
    os.utime(tmp_path / "lib" / "a.py", (time.time() + 3 * 3600,) * 2)
    found = online.clock(tmp_path)
    assert found.status == "fail" and "3 hours before the newest file" in found.seen


@pytest.mark.parametrize(("off_s", "status"), [(20, "ok"), (40, "warn"), (200, "warn"), (400, "fail")])
def test_a_clock_is_judged_by_how_wrong_it_is(
    hub: tuple[str, list[str]], off_s: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # this clock is moved in this process only: the server's date is LATE_S behind the machine's true one
    point_hub_at(monkeypatch, f"{hub[0]}/late", offline=False)
    true = time.time
    monkeypatch.setattr(online, "FILES_MAY_BE_AHEAD_S", 1e6)
    monkeypatch.setattr(
        online.time, "time", lambda: true() - (LATE_S if _in(online) else 0) + off_s * _in(online)
    )
    found = online.clock(ROOT)
    assert found.status == status, found


def _in(module: Any) -> bool:
    """Is this called by that module, and not by the server in another thread?"""
    return sys._getframe(2).f_globals is vars(module)


def test_who_is_logged_in_is_said_and_a_hub_that_hangs_is_a_warning(
    hub: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "TIMEOUT_S", 0.5)
    monkeypatch.setenv("WANDB_MODE", "online")
    for token, status, words in (
        ("good", "ok", "logged in as somebody"),
        ("", "warn", "nobody is logged in"),
    ):
        point_hub_at(monkeypatch, hub[0], offline=False)
        monkeypatch.setattr("huggingface_hub.get_token", lambda token=token: token or None)
        monkeypatch.setenv("WANDB_BASE_URL", hub[0])
        monkeypatch.setenv("WANDB_API_KEY", token)
        monkeypatch.setenv("NETRC", os.devnull)
        for found in (online.hub(), online.wandb()):
            assert found.status == status and words in found.seen, found
    point_hub_at(monkeypatch, f"{hub[0]}/hang", offline=False)
    monkeypatch.setenv("WANDB_BASE_URL", f"{hub[0]}/hang")
    for found in (online.hub(), online.wandb()):
        assert found.status == "warn" and "cannot be reached" in found.seen, found
    found = online.clock()
    assert found.status == "ok" and "could not be compared: the hub cannot be reached" in found.seen, found


def test_wrong_products_in_bf16_fail() -> None:
    def five_bits(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.mm(left, right).to(torch.float8_e4m3fn).bfloat16()  # as if 3 bits were kept

    assert devices.bf16().status == "ok"
    assert devices.bf16(five_bits).status == "fail"
    assert devices.bf16(lambda left, right: torch.mm(left, right) * torch.nan).status == "fail"


def test_kernels_that_lose_more_than_4_bits_do_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    bitsandbytes = sys.modules["bitsandbytes"]
    right, product = functional.dequantize_4bit, bitsandbytes.matmul_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *words: right(*words) * 1.1)
    monkeypatch.setattr(bitsandbytes, "matmul_4bit", lambda *words: product(*words) * 1.1)
    assert devices.nf4().facts["product"] < 1e-3 and devices.nf4().status == "fail"
    monkeypatch.setattr(functional, "dequantize_4bit", right)
    monkeypatch.setattr(bitsandbytes, "matmul_4bit", lambda *words: product(*words) * 1.02)
    assert devices.nf4().status == "fail"


def test_a_small_shm_is_a_warning(full_disk: Path) -> None:
    found = machine.shm(full_disk)
    assert found.status == "warn" and "--shm-size" in found.advice, found


GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def limited() -> Iterator[list[Path]]:
    """A control group with half a core and 1 GB; the files that a process enters it by."""
    name = f"doctor-{os.getpid()}"
    if (GROUPS / "cgroup.controllers").exists():
        limits = {GROUPS / name: {"cpu.max": "50000 100000", "memory.max": "1000000000"}}
    else:
        limits = {GROUPS / "cpu" / name: {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}}
        limits[GROUPS / "memory" / name] = {"memory.limit_in_bytes": "1000000000"}
    made: list[Path] = []
    try:
        for folder, values in limits.items():
            folder.mkdir()
            made.append(folder)
            for file, value in values.items():
                (folder / file).write_text(value)
        yield [folder / "cgroup.procs" for folder in made]
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    finally:
        for folder in made:
            folder.rmdir()


def test_a_container_s_limits_are_seen(limited: list[Path]) -> None:
    code = "import json; from dataclasses import asdict; from lib.doctor import machine;"
    code += "print(json.dumps([asdict(one()) for one in (machine.cores, machine.memory)]))"

    def enter() -> None:
        for file in limited:
            file.write_text(str(os.getpid()))

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, preexec_fn=enter, capture_output=True, text=True, timeout=60
    )
    cores, memory = json.loads(done.stdout)
    assert cores["status"] == "warn" and cores["facts"]["quota"] == 0.5 and "--threads 1" in cores["advice"]
    assert memory["status"] == "warn" and "limited to 1.0 GB" in memory["seen"], memory


# time limits


def test_a_check_that_raises_or_hangs_is_one_line_and_stops_no_other() -> None:
    def raises() -> Finding:
        raise OSError("no such thing\nand a long story")

    def hangs() -> Finding:
        time.sleep(60)
        raise AssertionError

    begun_s = time.monotonic()
    checks = [Check("a", raises, 5, ""), Check("b", hangs, 0.5, "see dmesg")]
    checks.append(Check("c", lambda: Finding("c", OK, "two\nlines"), 5, ""))
    lines = [finding.line() for finding in runner.run(checks)]
    assert lines[0].startswith("fail  a") and "OSError: no such thing;" in lines[0], lines
    assert lines[1].startswith("fail  b") and "no answer within 0.5 s; see dmesg" in lines[1]
    assert lines[2] == "ok    c             two lines"
    assert time.monotonic() - begun_s < 3


@pytest.mark.parametrize(
    ("text", "seen"),
    [("import time; time.sleep(60)", "no answer within"), ("import os; os.abort()", "signal SIGABRT")],
)
def test_a_kernel_that_hangs_or_crashes_is_a_finding(
    text: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bitsandbytes.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = runner.apart("nf4", "devices.nf4", 2.0, "see dmesg")
    assert found.status == FAIL and seen in found.seen and found.advice == "see dmesg", found


# ranks

ORDER = Order(2.0)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("hang", "no answer within 2 s, at the first all-reduce"),
        ("die", "rank 1: its process ended with exit code 7"),
        ("wrong", "the sum is wrong on rank 1"),
    ],
)
def test_a_rank_that_hangs_dies_or_sums_wrongly_is_caught(fault: Any, seen: str) -> None:
    if torch.cuda.device_count() == 1:
        pytest.skip("one GPU has one rank")
    found = group.here(replace(ORDER, limit_s=ORDER.limit_s if fault == "hang" else 20.0, fault=fault))
    assert found.status == FAIL and seen in found.seen, found
    assert ("numbers change on their way" if fault == "wrong" else "SOCKET_IFNAME=lo") in found.advice


def start_rank(rank: int, size: int, port: int, *words: str) -> subprocess.Popen[str]:
    """As torchrun would on a machine of two."""
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    environment |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return start("--network", *words, env=environment)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_ranks_of_torchrun_measure_and_rank_0_speaks() -> None:
    port = free_port()
    ranks = [start_rank(rank, 2, port, "--json") for rank in range(2)]
    (out, err), (other, _) = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], err
    assert not other
    network, latency, bandwidth = json.loads(out)["checks"]
    assert f"master 127.0.0.1:{port} by lo 127.0.0.1" in network["seen"]
    for one in network["facts"]["sizes"]:
        # of two ranks each sends one half and receives one half, twice: 2 (n - 1) / n = 1
        assert one["bytes_per_s"] == pytest.approx(one["bytes"] / one["median_s"])
    assert "ms for 8 bytes" in latency["seen"] and "for 64 MiB" in bandwidth["seen"]


def test_a_rank_whose_master_is_not_there_says_so_in_time_and_what_to_set() -> None:
    port = free_port()
    rank = start_rank(1, 2, port, "--limit-s", "2")
    out, err = rank.communicate(timeout=LIMIT_S)
    assert rank.returncode == 3, err
    assert out.startswith("fail  network") and "rank 1 of 2" in out
    assert f"no answer within 2 s, at joining the other ranks at 127.0.0.1:{port}" in out
    assert "GLOO_SOCKET_IFNAME" in out or "NCCL_SOCKET_IFNAME" in out


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Two network namespaces with a wire between them, 10.9.0.1 and 10.9.0.2; in both this machine's name
    leads to 127.0.0.1, as in many a container."""
    names = [f"doctor{os.getpid()}{letter}" for letter in "ab"]
    lines = [f"netns add {name}" for name in names]
    lines += [f"link add w0 netns {names[0]} type veth peer name w1 netns {names[1]}"]
    for number, name in enumerate(names):
        lines += [f"-n {name} addr add 10.9.0.{number + 1}/24 dev w{number}"]
        lines += [f"-n {name} link set {device} up" for device in ("lo", f"w{number}")]
    try:
        for line in lines:
            made = subprocess.run(["ip", *line.split()], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        if not socket.gethostbyname(socket.gethostname()).startswith("127."):
            pytest.skip("the name of this machine leads to a true address")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.faults
def test_machines_whose_names_lead_to_themselves_are_told_what_to_set_and_then_hear_each_other(
    two_machines: list[str],
) -> None:
    def node(number: int, port: int, env: dict[str, str]) -> subprocess.Popen[str]:
        words = ["ip", "netns", "exec", two_machines[number], sys.executable, "-m", "torch.distributed.run"]
        words += f"--nnodes 2 --node-rank {number} --master-addr 10.9.0.1 --master-port {port}".split()
        words += [str(ROOT / "scripts" / "doctor.py"), "--network", "--limit-s", "10"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=os.environ | ALONE | {"CUDA_VISIBLE_DEVICES": ""} | env, **pipes)

    out, _ = [ended(one).stdout for one in [node(number, 29400, {}) for number in range(2)]]
    assert out.startswith("fail  network"), out
    (advice,) = re.findall(r"leads to 127.\S+, where no other machine finds it: export (\S+)", out)
    assert advice == "GLOO_SOCKET_IFNAME=w0", out
    variable = advice.partition("=")[0]
    nodes = [node(number, 29401, {variable: f"w{number}"}) for number in range(2)]
    done = [ended(one) for one in nodes]
    assert [one.returncode for one in done] == [0, 0], done
    assert "by w0 10.9.0.1" in done[0].stdout and "the sum is right" in done[0].stdout


def test_bandwidth_of_four_ranks_counts_what_each_of_them_sends() -> None:
    # 64 MiB in half a second: 2 (4 - 1) / 4 = 1.5 times 134 MB/s
    sizes = [{"bytes": 1 << 26, "median_s": 0.5, "bytes_per_s": 1.5 * (1 << 27), "right": True}]
    lines = measured(Finding("network", OK, "", facts={"ranks": 4, "sizes": sizes}))
    assert "201 MB/s for 64 MiB" in lines[-1].seen
    assert measured(Finding("network", FAIL, "", facts={"ranks": 4, "sizes": sizes})) == []


# what a recipe needs


def fetch(monkeypatch: pytest.MonkeyPatch, home: Path, *words: str) -> list[Finding]:
    """In this process, with an empty cache."""
    import datasets
    import huggingface_hub.constants

    from lib.command_line import parse
    from lib.doctor.fetch import fetch as fetched

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", huggingface_hub.constants.ENDPOINT)
    return list(fetched(parse(recipe.load("arena").config, list(words), "doctor.py")))


SHORT = ("--max-length", "64")


def files_too(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Ask this address for files as well."""
    point_hub_at(monkeypatch, url, offline=False)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_what_was_fetched_is_what_training_reads(
    hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hub, at the commits that were said."""
    from lib.config import DataConfig, ModelConfig
    from lib.corpus import sources
    from lib.models import backbone

    files_too(monkeypatch, hub[0])
    model, data = fetch(monkeypatch, tmp_path, "--model", "org/small", "--data", "org/rows", *SHORT)
    assert (model.status, data.status) == (OK, OK), (model, data)
    assert f"--model-revision {COMMIT}" in model.seen and f"--revision {COMMIT}" in data.seen
    weights = tmp_path / "hub" / "models--org--small" / "snapshots" / COMMIT / "model.safetensors"
    assert sum(model.facts["bytes"].values()) > weights.stat().st_size > 0
    assert "train 20" in data.seen and len(data.facts["bytes"]) == 2

    asked = len(hub[1])
    for offline, model_revision, revision in (
        (True, COMMIT, COMMIT),
        (True, "main", None),
        (False, "main", None),
    ):
        point_hub_at(monkeypatch, "http://127.0.0.1:9", offline=offline)
        wanted = ModelConfig(model="org/small", model_revision=model_revision)
        described = backbone.describe(wanted, "encoder")
        backbone.load(described, wanted, "encoder", 0)
        rows = sources.load(DataConfig(data="org/rows", revision=revision), recipe.load("arena"))
        assert described.commit == rows.revision == COMMIT
        assert len(rows.splits["train"]) == 20
        assert len(hub[1]) == asked or not offline  # datasets read its address when it was imported


def test_what_is_here_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:9", offline=False)
    for words in ((), ("--model", "tiny")):
        for found in fetch(monkeypatch, tmp_path, *words, *SHORT):
            assert found.status == OK and "nothing to download" in found.seen, found


@pytest.mark.parametrize(
    ("name", "seen", "advice"),
    [
        ("gated", "its licence must be accepted first (HTTP 401)", "accept at {page}"),
        ("forbidden", "its licence must be accepted first (HTTP 403)", "hf auth login"),
        ("private", "it is private, or there is none of that name (HTTP 401); no token is here", "HF_TOKEN="),
        ("none", "there is none on the hub (HTTP 404)", "{page}"),
        ("broken", "the hub answers with HTTP 500", "try again later"),
    ],
)
def test_what_the_hub_refuses_is_named_with_what_to_do(
    hub: tuple[str, list[str]],
    name: str,
    seen: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point_hub_at(monkeypatch, hub[0], offline=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    found = fetch(monkeypatch, tmp_path, "--model", f"org/{name}", "--data", f"org/{name}", *SHORT)
    for one, page in zip(found, ("huggingface.co", "huggingface.co/datasets"), strict=True):
        assert one.status == FAIL and seen in one.seen, one
        assert advice.format(page=f"https://{page}/org/{name}") in one.advice, one


def test_a_licence_that_only_the_files_need_is_named_too(
    hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_too(monkeypatch, hub[0])
    model, _ = fetch(monkeypatch, tmp_path, "--model", "org/gated-files", *SHORT)
    assert model.status == FAIL and "HTTP 403" in model.seen, model
    assert "accept at https://huggingface.co/org/gated-files" in model.advice


def test_a_model_without_safetensors_is_a_failure(
    hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_too(monkeypatch, hub[0])
    model, _ = fetch(monkeypatch, tmp_path, "--model", "org/lacks-weights", *SHORT)
    assert model.status == FAIL and "model.safetensors" in model.seen, model


def test_a_hub_that_hangs_is_given_up_and_an_earlier_download_is_offered(
    hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.base.hub.TIMEOUT_S", 0.5)
    point_hub_at(monkeypatch, f"{hub[0]}/hang", offline=False)
    (tmp_path / "hub" / "datasets--org--rows" / "snapshots" / COMMIT).mkdir(parents=True)
    begun_s = time.monotonic()
    model, data = fetch(monkeypatch, tmp_path, "--model", "org/small", "--data", "org/rows", *SHORT)
    for found in (model, data):
        assert found.status == FAIL and "cannot be reached" in found.seen, found
        assert "HF_ENDPOINT" in found.advice
    assert f"--revision {COMMIT}" in data.advice and COMMIT not in model.advice
    assert time.monotonic() - begun_s < 30


# what is typed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--netwrk"], "Perhaps you meant"),
        (["arena"], "add --fetch"),
        (["arana", "--fetch"], "arena"),
        (["--only", "gpuu"], "did you mean 'gpu'"),
    ],
)
def test_typos_end_with_2(words: list[str], said: str) -> None:
    done = doctor(*words, env={})
    assert done.returncode == 2 and said in done.stdout + done.stderr


def test_lines_say_status_name_and_what_was_seen_and_help_needs_no_torch() -> None:
    done = doctor("--only", "python", "cores", env={})
    assert re.match(r"ok {4}python {8}3\.\d+\.\d+ \(.*\)\n(ok|warn) +cores ", done.stdout), done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 checks in ")
    code = "import sys; sys.argv = ['doctor.py', '--help']; import runpy\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally: print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code.replace("sys.argv[0]", repr(str(ROOT / "scripts" / "doctor.py")))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.rstrip().endswith("[]") and "--network" in done.stdout, done
    assert shutil.which("sh")
