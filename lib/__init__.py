"""Everything behind scripts/."""

import importlib.util
import os
import sys

# A laptop that only rents needs no packages for launch/pod.sh.
RENTS_ONLY = bool(sys.argv) and sys.argv[0].endswith("lib/launching/pods")
# torch is the one that tells a machine nobody has set up
if not RENTS_ONLY and importlib.util.find_spec("torch") is None:
    print(
        f"{sys.executable} lacks the packages of requirements.txt; type\n"
        "  bash setup.sh && . .venv/bin/activate\nand the same command again",
        file=sys.stderr,
    )
    sys.exit(2)
# Left over from accelerate's launcher, it makes transformers load weights on rank 0 alone.
os.environ.pop("ACCELERATE_USE_FSDP", None)
if "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP's workers spin while they wait for each other, and beside any other load that takes the cores
    # they wait for. MiniLM, 2 threads on 2 cores, rows/s as it comes and with this: idle 9.8 to 10.1 and 9.9,
    # beside one busy process 3.4 and 4.9; the same bits. Read once, when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
