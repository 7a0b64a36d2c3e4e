#!/usr/bin/env bash
# Runs that outlive your terminal, on another machine (over ssh) or on this one: in tmux, started again after crashes.
#
#   launch/pod.sh up root@1.2.3.4 -p 40022                                 # push the code, set up, look at the machine
#   launch/pod.sh start root@1.2.3.4 -p 40022 -- scripts/train.py arena    # queue a command; --file queue.txt: several
#   launch/pod.sh status root@1.2.3.4 -p 40022                             # also: logs -f, attach, stop, fetch, down
#
# HOST `local` is this machine. --help says more. Needs Python 3.11 here, no package; there ssh, rsync and tmux.
# PYTHON=/path/to/python uses that interpreter here.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

for python in "${PYTHON:-}" "$root/.venv/bin/python" python3 python3.13 python3.12 python3.11; do
    [[ $python ]] || continue
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" "$root/lib/launching/pods" "$@"
    fi
done
echo "pod.sh: Python 3.11 or newer is needed on this machine; python3 is $(python3 -V 2>/dev/null || echo missing)" >&2
exit 2
