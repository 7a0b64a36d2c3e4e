#!/usr/bin/env bash
# Sets up what is missing and tests everything. All steps run; the end says which failed.
#
#   bash tests/run.sh                      # ruff, mypy, shellcheck, pytest (CPU, no network)
#   bash tests/run.sh -k shell -x          # further words go to pytest
#   bash tests/run.sh --gpu                # what a GPU must show, else a rehearsal on the CPU; --faults: the long tests
#
# PYTHON=/path/to/python uses that interpreter and skips the setup: on a GPU machine without a network, say, where
# PYTHON=python3 bash tests/run.sh --gpu needs torch, transformers, scikit-learn, matplotlib, jinja2 and pytest, and
# skips what needs more, saying why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

marks="not gpu and not faults"
case ${1:-} in
    --gpu | --faults) marks=${1#--}; shift ;;
esac

if [[ ! ${PYTHON:-} ]]; then
    bash setup.sh --quiet || {
        code=$?
        echo "tests: no .venv. If another python3 has torch, transformers and pytest: PYTHON=python3 bash tests/run.sh" >&2
        exit $code
    }
fi
python=${PYTHON:-.venv/bin/python}
# shellcheck source=/dev/null
[[ ! -f .env.sh ]] || . ./.env.sh

failed=()
step() {
    echo "== $1"
    "${@:2}" || failed+=("$1")
}
module_step() {  # name, module, its arguments
    if "$python" -c "import $2" 2>/dev/null; then
        step "$1" "$python" -m "${@:2}"
    else
        echo "== $1: skipped, $python has no $2"
    fi
}

if [[ $marks == gpu ]]; then
    gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    if ((gpus == 0)) && nvidia-smi --list-gpus 2>/dev/null | grep '^GPU ' >/dev/null; then
        echo "tests: this machine has a GPU, but torch in $python cannot use it" >&2
        exit 1
    elif ((gpus == 0)); then
        echo "== no GPU here: a REHEARSAL on the CPU. It shows that every test runs and can pass, with gloo for nccl,"
        echo "== waits counted instead of forbidden, and a stand-in for memory that is short. It cannot show nccl, paged"
        echo "== memory, real waits, CUDA's kernels (attention, 4 bits, compile) and their bits, speed"
    fi
fi
if [[ $marks == not* ]]; then
    module_step "ruff check" ruff check .
    module_step "ruff format" ruff format --check .
    module_step "mypy" mypy lib scripts
    shellcheck=$(PATH=.venv/bin:$PATH command -v shellcheck || true)
    if [[ $shellcheck ]]; then
        step "shellcheck" "$shellcheck" setup.sh launch/*.sh tests/*.sh .ci/run
    else
        echo "== shellcheck: skipped, not installed"
    fi
fi
workers=() files=()
if [[ $marks == not* ]] && "$python" -c "import xdist" 2>/dev/null; then
    # a process needs about 1 GB; a file stays in one, for what its tests share is made once
    workers=(--numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
fi
if [[ $marks == gpu ]]; then
    files=(tests/test_gpu*.py)  # other files may need packages that a bare GPU machine lacks
fi
step "pytest" "$python" -m pytest -q -ra -m "$marks" "${workers[@]}" "$@" "${files[@]}"

if ((${#failed[@]})); then
    printf 'tests: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "tests: all steps passed"
