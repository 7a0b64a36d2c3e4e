"""Run by test_zero.py: scripts/train.py where no device has room for a whole model.

python tests/no_room.py RECIPE FLAG ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe
from lib.base import exits
from lib.command_line import parse
from lib.training import memory


def main() -> int:
    from lib import run

    memory.has_room = lambda num_bytes, device: False
    name, *words = sys.argv[1:]
    return run.train(parse(recipe.load(name).config, words, "test"))


if __name__ == "__main__":
    exits.leave(exits.run(main))
