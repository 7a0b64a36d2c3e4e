"""The shell scripts, run for real: which torch is chosen, how many ranks start, how a bad setup is repaired.

They run in a copy of the project. A fake nvidia-smi stands for the driver, fake wheels for the network.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
TORCH = next(line.split()[0] for line in REQUIREMENTS.splitlines() if line.startswith("torch=="))

NVIDIA_SMI = """#!/bin/sh
case "$*" in
    *compute_cap*) echo "$CAPABILITIES" ;;
    *--query-gpu*) echo "NVIDIA A40, 46068 MiB, 550.54" ;;
    *--list-gpus*) printf 'GPU 0: NVIDIA A40\\nGPU 1: NVIDIA A40\\nGPU 2: NVIDIA A40\\n' ;;
    *) echo "| NVIDIA-SMI 550.54    Driver Version: 550.54    $HEADER |" ;;
esac
"""
NO_DRIVER = "#!/bin/sh\necho cannot talk to the driver >&2\nexit 9\n"
# Prints its process, folder and words; bash never makes this exit code itself.
TRAIN = "import os, sys\nprint(os.getpid(), os.getcwd(), *sys.argv[1:], sep='|')\nsys.exit(75)\n"


class Project:
    """A copy of the scripts in an empty folder, with an environment that knows no pip configuration."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a project"
        self.bin = folder / "bin"
        for name in ("setup.sh", "requirements.txt", "launch/run.sh"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "scripts").mkdir()
        (self.root / "scripts" / "train.py").write_text(TRAIN)
        self.bin.mkdir()
        (self.bin / "python3").symlink_to(Path(sys.executable).resolve())
        self.put_program("tmux", "#!/bin/sh\n")
        self.put_program("nvidia-smi", NO_DRIVER)
        ours = ("PIP_", "TORCH_BUILD", "HF_HOME", "WANDB_", "NGPU", "CUDA_VISIBLE_DEVICES", "PYTHON")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.env["PIP_CONFIG_FILE"] = os.devnull

    def put_program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def put_driver(self, header: str = "CUDA Version: 12.8", capabilities: str = "8.6") -> None:
        self.put_program("nvidia-smi", NVIDIA_SMI)
        self.env |= {"HEADER": header, "CAPABILITIES": capabilities}

    def start(self, script: str, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", self.root / script, *words],
            cwd=self.root.parent,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(*words, **env))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def pip_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split(" -q ")[1] for line in result.stdout.splitlines() if " pip install " in line]


# What nvidia-smi prints, the GPUs' compute capabilities, the build that fits.
BUILDS = [
    ("CUDA Version: 12.0", "8.6", "cu126"),  # the oldest driver that runs 12.x builds
    ("CUDA Version: 12.8", "12.0", "cu129"),
    ("CUDA UMD Version: 13.0", "9.0", "cu130"),  # as newer drivers print it
    ("CUDA Version: 13.0", "9.0\n7.0", "cu126"),  # one V100 among them
]


def test_torch_build_fits_driver_and_gpu(project: Project) -> None:
    project.put_driver()
    dry_run = ("setup.sh", "--dry-run")
    runs = [project.start(*dry_run, HEADER=header, CAPABILITIES=units) for header, units, _ in BUILDS]
    lines = [pip_lines(project.finish(process)) for process in runs]
    index = "--index-url https://download.pytorch.org/whl"
    assert [line[1] for line in lines] == [f"{TORCH} {index}/{build}" for _, _, build in BUILDS]
    assert lines[0][2] == "-r requirements.txt"
    assert not (project.root / ".venv").exists()


def test_old_driver_is_refused_and_cpu_build_offered(project: Project) -> None:
    project.put_driver("CUDA Version: 11.8")
    result = project.run("setup.sh", "--dry-run")
    assert result.returncode == 2
    assert "CUDA 11.8" in result.stderr
    assert "525.60.13" in result.stderr
    assert "TORCH_BUILD=cpu bash setup.sh" in result.stderr
    offered = project.run("setup.sh", "--dry-run", TORCH_BUILD="cpu")
    assert pip_lines(offered)[1] == f"{TORCH} --index-url https://download.pytorch.org/whl/cpu"


def test_without_driver_the_cpu_build_is_chosen(project: Project) -> None:
    result = project.run("setup.sh", "--dry-run")
    assert pip_lines(result)[1] == f"{TORCH} --index-url https://download.pytorch.org/whl/cpu"
    assert "cannot talk to the driver" in result.stderr


def test_own_pip_index_wins(project: Project) -> None:
    project.put_driver()
    pip_conf = project.root / "pip.conf"
    pip_conf.write_text("[global]\nextra-index-url = https://packages.example/simple\n")
    for env in ({"PIP_CONFIG_FILE": str(pip_conf)}, {"PIP_FIND_LINKS": "/wheels"}):
        assert pip_lines(project.run("setup.sh", "--dry-run", **env))[1] == TORCH


def test_small_disk_is_refused_before_anything_is_installed(project: Project) -> None:
    # 100 blocks of 1 KiB free.
    project.put_program(
        "df", "#!/bin/sh\nprintf 'Filesystem blocks Used Free\\nx 900000000 0 100 0%% /\\n'\n"
    )
    result = project.run("setup.sh")
    assert result.returncode == 2
    assert "0 GiB free, setup needs 3 GiB" in result.stderr
    assert not (project.root / ".venv").exists()


def test_caches_leave_a_small_home_disk_and_own_hf_home_wins(project: Project) -> None:
    # The home disk has 20 GiB, the project's disk 1000 GiB; nothing is free, so setup stops after .env.sh.
    df = '#!/bin/sh\ncase "$2" in /home/me) size=20971520 ;; *) size=1048576000 ;; esac\n'
    project.put_program("df", f"{df}printf 'Filesystem blocks Used Free\\nx %s 0 0 0%% /\\n' $size\n")
    project.run("setup.sh", HOME="/home/me")
    show = 'source "$1"; echo "$HF_HOME|$PIP_CACHE_DIR|$WANDB_CACHE_DIR"'
    command = ["bash", "-c", show, "bash", str(project.root / ".env.sh")]
    env = {"PATH": os.environ["PATH"], "HF_HOME": "/my/models"}
    folders = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()
    hf_home, pip_cache, wandb_cache = folders.split("|")
    assert hf_home == "/my/models"
    assert pip_cache.endswith("/.cache/pip") and not pip_cache.startswith("/home/me")
    assert wandb_cache.endswith("/.cache/wandb")


def put_wheel(folder: Path, requirement: str, code: str) -> None:
    name, version = requirement.split("==")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_two_setups_at_once_repair_an_interrupted_one(project: Project, tmp_path: Path) -> None:
    put_wheel(tmp_path, TORCH, "def ones(size, device): return size\n")
    put_wheel(tmp_path, "other==1.0", "")
    (project.root / "requirements.txt").write_text(f"{TORCH}  # a comment\nother==1.0\n")
    project.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    # kill -9 leaves the word "unfinished" behind, and half of a package that pip takes for whole.
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = project.root / ".venv" / "lib" / python / "site-packages"
    (packages / "other-1.0.dist-info").mkdir(parents=True)
    (packages / "other-1.0.dist-info" / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (project.root / ".venv" / ".setup").write_text("unfinished\n")

    both = [project.finish(process) for process in [project.start("setup.sh") for _ in range(2)]]
    assert [result.returncode for result in both] == [0, 0], both
    assert sorted("the last setup did not finish" in result.stdout for result in both) == [False, True]
    assert (packages / "other" / "__init__.py").exists()
    again = project.run("setup.sh", "--quiet")
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (0, "", 1)  # the driver's warning


def started(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The words that train.py was started with."""
    return result.stdout.strip().split("|")[2:]


def test_run_becomes_train_with_the_words_in_the_folder_where_the_user_stands(project: Project) -> None:
    words = ["boolq", "--data", "../x y.csv", "--smoke"]
    process = project.start("launch/run.sh", *words, PYTHON=sys.executable, NGPU="4")
    result = project.finish(process)
    assert result.returncode == 75
    seen = [str(process.pid), str(project.root.parent), *words, "--devices", "4"]
    assert result.stdout.strip() == "|".join(seen)


def test_run_counts_devices(project: Project) -> None:
    run = ("launch/run.sh", "arena")
    cpu_ranks = "2" if (os.cpu_count() or 1) > 1 else "1"
    python = {"PYTHON": sys.executable}
    assert started(project.run(*run, **python))[-2:] == ["--devices", cpu_ranks]
    project.put_driver()
    assert started(project.run(*run, **python))[-2:] == ["--devices", "3"]
    assert started(project.run(*run, **python, CUDA_VISIBLE_DEVICES="0,2"))[-2:] == ["--devices", "2"]
    assert started(project.run(*run, **python, CUDA_VISIBLE_DEVICES=""))[-2:] == ["--devices", cpu_ranks]
    assert started(project.run(*run, **python, TORCH_BUILD="cpu"))[-2:] == ["--devices", cpu_ranks]
    assert started(project.run(*run, "--devices", "1", **python, NGPU="4")) == ["arena", "--devices", "1"]
    assert started(project.run(*run, "--devices=1", **python)) == ["arena", "--devices=1"]


def test_run_dry_run_prints_setup_and_command(project: Project) -> None:
    result = project.run("launch/run.sh", "arena", "--dry-run", NGPU="2")
    assert result.returncode == 0, result.stderr
    assert pip_lines(result)[2] == "-r requirements.txt"
    words = result.stdout.splitlines()[-1].replace("\\ ", " ")
    assert words.strip() == (
        f"{project.root}/.venv/bin/python {project.root}/scripts/train.py arena --devices 2"
    )
    assert not (project.root / ".venv").exists()


def test_scripts_are_shellcheck_clean() -> None:
    pinned = Path(sys.executable).with_name("shellcheck")
    program = str(pinned) if pinned.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    scripts = [".ci/run", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.sh")), "setup.sh"]
    result = subprocess.run([program, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
