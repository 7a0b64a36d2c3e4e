#!/usr/bin/env bash
# Fresh machine -> ready to train: .venv with the pinned requirements, caches on the big disk, tmux.
# Safe to run twice: does nothing when nothing changed, repairs what an interrupted run left behind.
#
#   bash setup.sh                      # set up, or say that all is ready
#   bash setup.sh --dry-run            # print what it would do
#   TORCH_BUILD=cpu bash setup.sh      # choose torch by hand (cpu, cu126, cu129, cu130); remembered until TORCH_BUILD=auto
#
# torch: the newest CUDA build that the NVIDIA driver can run; the CPU build without a driver. An index or
# find-links of your own pip configuration wins. --quiet says nothing when all is ready.
# Exit code 0: ready. 2: refused (Python, driver, disk). Any other: an installation failed; run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly GIB_IN_KIB=1048576
readonly SMALL_DISK_GIB=100  # a rented pod's / often has 20 GB and the volume is elsewhere; laptops have more

dry_run="" quiet=""
for word in "$@"; do
    case $word in
        --dry-run) dry_run=1 ;;
        --quiet) quiet=1 ;;
        *) echo "setup: unknown option $word; use --dry-run or --quiet" >&2; exit 2 ;;
    esac
done

say() { echo "setup: $*"; }
warn() { echo "setup: warning: $*" >&2; }
refuse() { echo "setup: $*" >&2; exit 2; }
run() {
    if [[ $dry_run ]]; then say "would run:$(printf ' %q' "$@")"; else "$@"; fi
}

# The base interpreter behind the first python3 that is new enough: never this .venv's own, which may be rebuilt.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        "$name" 2>/dev/null -c 'if 1:
            import os, sys
            sys.version_info < (3, 11) and sys.exit(1)
            print(os.path.realpath(sys.executable))' && return
    done
    refuse "Python 3.11 or newer is needed; python3 is $(python3 -V 2>/dev/null || echo missing)." \
        "Ubuntu, Debian: apt-get install python3.11 python3.11-venv. Elsewhere: conda create -n py312 python=3.12," \
        "conda activate py312. Then run setup.sh again."
}

# $gpus: a line a GPU, empty without a working NVIDIA driver.
find_gpus() {
    gpus=""
    command -v nvidia-smi >/dev/null || return 0
    if ! gpus=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1); then
        warn "nvidia-smi fails, so this counts as a machine without a GPU: $gpus"
        gpus=""
    fi
}

has_own_index() {
    [[ ${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}${PIP_NO_INDEX:-} ]] ||
        { "$python" -m pip config list 2>/dev/null || true; } | grep -E '(index-url|find-links|no-index)=' >/dev/null
}

# $build: own (the user's index decides) or cpu, cu126, cu129, cu130. torch 2.13.0 has no cu128 build.
choose_build() {
    local cuda=0 capability
    build=${TORCH_BUILD:-auto}
    [[ $build =~ ^(auto|cpu|cu[0-9]+)$ ]] || refuse "TORCH_BUILD is '$build'; use auto, cpu, cu126, cu129 or cu130"
    if has_own_index; then build=own; fi
    [[ $build == auto ]] || return 0
    build=cpu
    [[ $gpus ]] || return 0
    # Newer drivers print "CUDA UMD Version".
    if [[ $(nvidia-smi) =~ CUDA[A-Z\ ]*Version:\ *([0-9]+)\.([0-9]+) ]]; then
        cuda=$((BASH_REMATCH[1] * 100 + BASH_REMATCH[2]))
    else
        refuse "nvidia-smi does not say which CUDA version the driver supports." \
            "Choose by hand: TORCH_BUILD=cu126 bash setup.sh (or cu129, cu130, cpu)"
    fi
    # A driver of CUDA 12.0 runs every 12.x build (NVIDIA's minor version compatibility): driver 525 or newer.
    ((cuda >= 1200)) || refuse "the NVIDIA driver is too old: it supports CUDA ${BASH_REMATCH[1]}.${BASH_REMATCH[2]}" \
        "($gpus), torch $torch needs CUDA 12.0, which is driver 525.60.13 or newer. Update the driver or rent a" \
        "machine with a newer one; to go on without the GPU: TORCH_BUILD=cpu bash setup.sh"
    build=cu126
    if ((cuda >= 1208)); then build=cu129; fi  # Blackwell needs it
    if ((cuda >= 1300)); then build=cu130; fi
    # GPUs before Turing (V100, P100, GTX 10xx) are only in the cu126 build.
    for capability in $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null); do
        if [[ $capability =~ ^([0-9]+)\.([0-9])$ ]] && ((BASH_REMATCH[1] * 10 + BASH_REMATCH[2] < 75)); then
            build=cu126
        fi
    done
}

disk_kib() { df -Pk "$2" | awk -v column="$1" 'NR == 2 { print $column }'; }  # column 2: size, column 4: free

# .env.sh, read by the launchers: caches go to the big disk when the home disk is small. What is set already wins.
write_env() {
    local cache="" place text="# Written by setup.sh; variables that are set already win." size
    size=$(disk_kib 2 "$HOME")
    if ((size < SMALL_DISK_GIB * GIB_IN_KIB)); then
        for place in "$PWD" /workspace; do
            if [[ -w $place ]] && (($(disk_kib 2 "$place") > 2 * size)); then cache=$place/.cache; fi
        done
    fi
    [[ ! $cache ]] || text+=$(
        printf '\nexport %s' "HF_HOME=\"\${HF_HOME:-$cache/huggingface}\"" \
            "PIP_CACHE_DIR=\"\${PIP_CACHE_DIR:-$cache/pip}\"" "WANDB_CACHE_DIR=\"\${WANDB_CACHE_DIR:-$cache/wandb}\""
    )
    [[ ${TORCH_BUILD:-auto} == auto ]] || text+=$'\n'"export TORCH_BUILD=\"\${TORCH_BUILD:-$TORCH_BUILD}\""
    if [[ ! -f .env.sh || $text != "$(<.env.sh)" ]]; then
        [[ ! $cache ]] || say "the home disk is small ($((size / GIB_IN_KIB)) GiB): caches go to $cache"
        if [[ $dry_run ]]; then say "would write .env.sh"; else write_atomically .env.sh "$text"; fi
    fi
    # shellcheck source=/dev/null
    [[ $dry_run ]] || . ./.env.sh
}

write_atomically() {
    printf '%s\n' "$2" >"$1.$$"
    mv "$1.$$" "$1"
}

check_tmux() {
    command -v tmux >/dev/null && return
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        run bash -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq tmux' ||
            warn "tmux could not be installed; runs that outlive your terminal need it"
    else
        say "tmux is missing; runs that outlive your terminal need it. Install it with your package manager, for example:" \
            "sudo apt-get install tmux"
    fi
}

# Counts what .venv holds already, because it is reused or replaced.
check_disk() {
    local need_gib=3 free_kib held_kib
    if [[ $build == cu* || ($build == own && $gpus) ]]; then need_gib=10; fi
    free_kib=$(disk_kib 4 .)
    held_kib=$(du -skH .venv 2>/dev/null | cut -f1 || true)
    ((free_kib + ${held_kib:-0} >= need_gib * GIB_IN_KIB)) ||
        refuse "$PWD has $((free_kib / GIB_IN_KIB)) GiB free, setup needs $need_gib GiB." \
            "Free some space, or move this folder to a bigger disk (df -h)"
}

torch_computes() {
    local device=cpu
    if [[ $gpus && $build != cpu ]]; then device=cuda; fi
    .venv/bin/python -c 'import sys, torch; torch.ones(1, device=sys.argv[1]) + 1' $device
}

# .venv/.setup holds "<build> <hash of requirements.txt>" of the last finished setup, or "unfinished".
is_ready() {
    state=""
    [[ ! -f .venv/.setup ]] || state=$(<.venv/.setup)
    # Fails after a move to a machine with another python3, too.
    .venv/bin/python 2>/dev/null -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("torch"))' || return 1
    [[ $state != "$build $hash" ]] || return 0
    # Another driver or another pip configuration than last time: what is installed stays if it works here.
    [[ $state == *" $hash" && ${TORCH_BUILD:-auto} == auto ]] && torch_computes >/dev/null 2>&1
}

lock() {
    mkdir -p .venv
    exec 9>.venv/.setup.lock
    command -v flock >/dev/null || return 0  # macOS
    if ! flock -n 9; then
        say "another setup is at work in this folder: waiting for it"
        flock 9 || warn "this disk knows no locks; do not start two setups at once"
    fi
}

make_venv() {
    local reason=""
    if [[ $state == unfinished ]]; then
        reason="the last setup did not finish"
    elif [[ $state && ${state%% *} != "$build" ]]; then
        reason="torch changes from ${state%% *} to $build"
    elif ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        reason="no working .venv yet"
    fi
    [[ $dry_run ]] || write_atomically .venv/.setup unfinished
    [[ $reason ]] || return 0
    say "making .venv: $reason"
    [[ ! -d .venv ]] || run find .venv/ -mindepth 1 ! -path '.venv/.setup*' -delete
    run "$python" -m venv .venv
}

pip_install() {
    # shellcheck disable=SC2086  # $pip_quiet is one word or none
    run .venv/bin/python -m pip install --disable-pip-version-check --no-compile $pip_quiet "$@" || {
        warn "pip failed (above); run setup.sh again when the cause is gone"
        exit 1
    }
}

install() {
    local index="" pip_quiet=-q error
    if [[ $build != own ]]; then index="--index-url https://download.pytorch.org/whl/$build"; fi
    if [[ -t 1 ]]; then pip_quiet=""; fi  # progress bars
    make_venv
    pip_install 'pip>=23.0'  # 22.x cannot read the metadata of some CUDA wheels
    # shellcheck disable=SC2086  # $index is two words or none
    pip_install "torch==$torch" $index
    pip_install -r requirements.txt
    # pip compiles on one core only. Some files are templates that do not compile.
    run .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
    [[ ! $dry_run ]] || return 0
    error=$(torch_computes 2>&1) ||
        warn "torch is installed but cannot compute here: ${error##*$'\n'}. If your pip configuration chose a build" \
            "that the driver cannot run: PIP_CONFIG_FILE=/dev/null bash setup.sh, with no PIP_* index set"
    write_atomically .venv/.setup "$build $hash"
}

report() {
    say "ready: $(.venv/bin/python -V), torch build $build, $(($(disk_kib 4 .) / GIB_IN_KIB)) GiB free in $PWD"
    say "${gpus:-no NVIDIA GPU}"
}

# shellcheck source=/dev/null
[[ ! -f .env.sh ]] || . ./.env.sh
HOME=${HOME:-/}
python=$(find_python)
torch=$(sed -nE 's/^torch==([^ ]+).*/\1/p' requirements.txt)
hash=$(cksum <requirements.txt | tr ' ' -)
find_gpus
choose_build
write_env
if is_ready; then
    [[ $state == "$build $hash" || $dry_run ]] || write_atomically .venv/.setup "$build $hash"
    [[ $quiet ]] || { check_tmux; report; }
    exit 0
fi

"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    refuse "$python has no venv module; on Ubuntu, Debian: apt-get install $(basename "$python")-venv"
check_disk
if [[ ! $dry_run ]]; then
    lock
    if is_ready; then exit 0; fi  # the other one has done it
fi
say "torch $torch, build $build; GPUs: ${gpus:-none}"
check_tmux
install
[[ $dry_run ]] || report
