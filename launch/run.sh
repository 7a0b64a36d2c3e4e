#!/usr/bin/env bash
# Train on this machine, in the foreground: sets up if needed, then starts one rank a GPU (without a GPU: 2 CPU ranks).
#
#   launch/run.sh --smoke                              # the whole pipeline on a tiny model
#   launch/run.sh boolq --epochs 3 --batch 32          # all GPUs
#   NGPU=2 launch/run.sh arena --data ../arena.csv     # two ranks, like --devices 2; paths are seen from where you stand
#
# --dry-run prints the command. PYTHON=/path/to/python uses that interpreter and skips the setup.
# All other words go to scripts/train.py, and its exit code comes back.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

dry_run="" devices="" words=()
for word in "$@"; do
    case $word in
        --dry-run) dry_run=--dry-run; continue ;;
        --devices | --devices=*) devices=given ;;
    esac
    words+=("$word")
done

num_gpus() {
    if [[ ${TORCH_BUILD:-} == cpu ]] || ! command -v nvidia-smi >/dev/null; then
        echo 0
    elif [[ ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[^-]' || true
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
    fi
}

num_ranks() {
    local gpus
    gpus=$(num_gpus)
    if ((gpus > 0)); then
        echo "$gpus"
    elif (($(getconf _NPROCESSORS_ONLN) > 1)); then
        echo 2
    else
        echo 1
    fi
}

[[ ${PYTHON:-} ]] || bash "$root/setup.sh" --quiet $dry_run
# shellcheck source=/dev/null
[[ ! -f $root/.env.sh ]] || . "$root/.env.sh"

[[ $devices ]] || words+=(--devices "${NGPU:-$(num_ranks)}")
command=("${PYTHON:-$root/.venv/bin/python}" "$root/scripts/train.py" "${words[@]}")
if [[ $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
