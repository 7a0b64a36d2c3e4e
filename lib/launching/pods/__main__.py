"""The laptop's side of launch/pod.sh, which starts it: python lib/launching/pods VERB HOST ..."""

import sys

# This folder stands first; the project's root is to, so that none of these modules hides one of Python's.
sys.path[0] = __file__.rsplit("/", 4)[0]

from lib.base import exits  # noqa: E402
from lib.launching.pods import verbs  # noqa: E402

if __name__ == "__main__":
    exits.leave(exits.run(verbs.main))
