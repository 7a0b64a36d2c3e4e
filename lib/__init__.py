"""Everything behind scripts/."""

import importlib.util
import sys

if importlib.util.find_spec("tyro") is None:  # the first package that any script needs
    print(
        f"{sys.executable} lacks the packages of requirements.txt; type\n"
        "  bash setup.sh && . .venv/bin/activate\nand the same command again",
        file=sys.stderr,
    )
    sys.exit(2)
