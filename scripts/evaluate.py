"""Score a finished run again, or prompts before anything is trained: scripts/evaluate.py RUN [--data PATH]

Examples:
    # says whether the scores are the same
    python scripts/evaluate.py runs/arena/20261122_101500
    # rows the run has never seen
    python scripts/evaluate.py 20261122_101500 --data new.csv
    # does it cite because it has read? (german_rag)
    python scripts/evaluate.py 20261122_101500 --twins
    # which prompt to pay for: each on the same rows, before any training
    python scripts/evaluate.py meta_review --model EleutherAI/pythia-70m --prompt-file a.txt b.txt
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import options
from lib.evaluation.options import Options


def main() -> None:
    """Score a finished run again, in a fresh process."""
    asked = options(Options, __doc__)
    with words_aside(asked.json):
        speak(f"asked about {asked.run}; it takes some seconds to start")
        from lib.evaluation.evaluate import evaluate

        words, found = evaluate(asked)
        speak(words)
    if asked.json:
        speak_json(found)


if __name__ == "__main__":
    sys.exit(exits.run(main))
