"""What this machine, or the container on it, gives to a run: memory, cores, files, programs."""

import os
import resource
import shutil
from pathlib import Path

from lib.doctor.finding import GB, MB, OK, Finding, judged

SHM = Path("/dev/shm")
# What NVIDIA says its PyTorch containers need (--shm-size=1g): nccl takes some 10 MB for each pair of GPUs,
# loaders of torch each batch that they hand over. docker's default is 64 MB.
LEAST_SHM = 1e9
LEAST_FREE_SHM = 256e6  # what dead processes left there counts as used
LEAST_MEMORY = (
    4e9  # one process with torch and MiniLM takes 1.5 GB, and rows, tokens and the page cache need some
)
LEAST_FILES = 1024  # Linux's own default; shards, rows, sockets and pipes of several ranks stay below it
PROGRAMS = {"tmux": "runs that outlive the terminal", "rsync": "moving files", "ssh": "moving files"}
V1_NO_LIMIT = 2**60  # version 1 of cgroups has a huge number where there is no limit


def shm(path: Path = SHM) -> Finding:
    room = os.statvfs(path)
    size, free = room.f_frsize * room.f_blocks, room.f_frsize * room.f_bavail
    small = left = ""
    if size < LEAST_SHM:
        small = "docker run --shm-size=8g (or --ipc=host); as root: mount -o remount,size=8G /dev/shm"
    elif free < LEAST_FREE_SHM:
        left = f"see what lies there: ls -la {path}"
    seen = f"{path} has {size / MB:,.0f} MB, {free / MB:,.0f} MB of it free"
    return judged(Finding("shm", OK, seen, facts={"size_bytes": size, "free_bytes": free}), small, left)


def memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Finding:
    """Main memory, and the limit beyond which a container's processes are killed."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    values = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    total, free = values["MemTotal"], values["MemAvailable"]
    limit, used = _memory_limit(groups, own)
    seen = f"{total / GB:.1f} GB, {free / GB:.1f} GB of it free"
    if limit is not None and limit < total:
        free = min(free, max(0, limit - used))
        seen += f"; limited to {limit / GB:.1f} GB by the control group, {free / GB:.1f} GB of it free"
        seen += " (beyond it processes are killed: exit code 137)"
    facts = {"total_bytes": total, "free_bytes": free, "limit_bytes": limit}
    short = free < LEAST_MEMORY
    advice = "end what else runs here (ps aux --sort=-rss), or take a machine with more" if short else ""
    return judged(Finding("memory", OK, seen, facts=facts), advice)


def cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Finding:
    """Cores that are seen, by which a run chooses its threads, and the time on them that may be used."""
    seen_cores, quota = len(os.sched_getaffinity(0)), cpu_quota(groups, own)
    if quota is None or quota >= seen_cores:
        facts = {"cores": seen_cores, "quota": quota}
        return Finding("cores", OK, f"{seen_cores} cores, no lower quota", facts=facts)
    seen = f"{seen_cores} cores are seen, the control group's quota is {quota:g}"
    # a run takes as many threads as it sees cores, and they would wait for each other
    advice = f"train with --threads {max(1, int(quota))}, shared out over the ranks of this machine"
    return judged(Finding("cores", OK, seen, facts={"cores": seen_cores, "quota": quota}), advice)


def files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = ["no limit" if limit == resource.RLIM_INFINITY else str(limit) for limit in (soft, hard)]
    seen = f"{words[0]} files may be open at once (at most {words[1]})"
    few = soft != resource.RLIM_INFINITY and soft < LEAST_FILES
    advice = "ulimit -n 65536, or as much as is allowed" if few else ""
    return judged(Finding("files", OK, seen, facts={"soft": soft, "hard": hard}), advice)


def programs() -> Finding:
    there = {name: shutil.which(name) for name in PROGRAMS}
    missing = [name for name in PROGRAMS if there[name] is None]
    seen = (
        ", ".join(f"{name} is missing ({PROGRAMS[name]})" for name in missing)
        or f"{', '.join(there)} are here"
    )
    packages = " ".join("openssh-client" if name == "ssh" else name for name in missing)
    advice = f"apt-get install {packages}" if missing else ""
    return judged(Finding("programs", OK, seen, facts=dict(there)), advice)


def cpu_quota(groups: Path, own: Path) -> float | None:
    """How many cores' time may be used: the least of this process's control group and those above it."""
    quotas = []
    for folder in _folders(groups, own, "cpu"):
        words = (_text(folder / "cpu.max") or "max").split()
        if words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit(groups: Path, own: Path) -> tuple[int | None, int]:
    """The lowest limit, and what of it is used. Bytes; what the page cache would give back is not used."""
    limits = []
    for folder in _folders(groups, own, "memory"):
        for limit_in, used_in, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _text(folder / limit_in)
            if limit and limit != "max" and int(limit) < V1_NO_LIMIT:
                lines = (_text(folder / "memory.stat") or "").splitlines()
                back = int(dict(line.split() for line in lines).get(cache, 0))
                limits.append((int(limit), int(_text(folder / used_in) or 0) - back))
    return min(limits, default=(None, 0))


def _folders(groups: Path, own: Path, controller: str) -> list[Path]:
    """Where a controller's files for this process are, and those of the groups above: version 2 has one tree
    of groups, version 1 one for each controller. A container may see its own group as the root."""
    folders = []
    for line in (_text(own) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            roots = [groups / name for name in (controllers, controller)] if controllers else [groups]
            folders += [root / part for root in roots for part in (inside, *inside.parents)]
    return folders


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
