"""Is this machine ready? scripts/doctor.py [--network], or doctor.py RECIPE --fetch [flags of train.py]

Examples:
    # packages, GPU, disks, memory, clock, hub: a line each, in seconds
    python scripts/doctor.py
    # do the ranks of these two machines hear each other, and how fast? (on the other one: --node-rank 1)
    torchrun --nnodes 2 --node-rank 0 --master-addr HOST --master-port 29400 scripts/doctor.py --network
    # download what a run will read, before the meter of the GPU runs
    python scripts/doctor.py boolq --fetch --data google/boolq
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.doctor import options
from lib.doctor.report import say


def main() -> int:
    """Look, and change nothing. Ends with 3 when something fails; warnings are allowed."""
    argv = sys.argv[1:]
    options.quiet()
    if options.asks_for_recipe(argv):
        config, as_json = options.of_recipe(argv, __doc__)
        from lib.doctor.fetch import fetch

        return say(fetch(config), as_json)
    asked = options.of_machine(argv, __doc__)
    if asked.network:
        from lib.doctor.network import network

        return say(network(asked.limit_s, asked.json), asked.json)
    from lib.doctor import runner
    from lib.doctor.checks import checks

    return say(runner.run(checks(asked.runs_dir, asked.only)), asked.json)


if __name__ == "__main__":
    exits.leave(exits.run(main))
