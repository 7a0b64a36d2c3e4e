"""A machine that nobody has set up: without tyro a configuration is what it is with it; only flags cannot be
read, and that is said."""

import json
import subprocess
import sys

import pytest

from lib import recipe
from lib.command_line import parse
from lib.config_tree import to_dict
from tests import rank_checks
from tests.tools import ROOT, SHORT, configured

WITHOUT_TYRO = f"""
import json, runpy, sys
sys.modules["tyro"] = None  # as if it were not installed
sys.path.insert(0, {str(ROOT)!r})
sys.argv = sys.argv[1:]
"""
TREES = """
from lib import recipe
from lib.config_tree import to_dict
from tests import rank_checks
print(json.dumps([to_dict(recipe.load(name).config) for name in recipe.names()]))
print(json.dumps(to_dict(rank_checks.configuration("german_rag", "tiny", "/runs"))))
"""


def without_tyro(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TYRO + script, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_configurations_are_the_same_without_tyro() -> None:
    done = without_tyro(TREES)
    assert done.returncode == 0, done.stderr
    recipes, one = map(json.loads, done.stdout.splitlines())
    assert recipes == [json.loads(json.dumps(to_dict(recipe.load(name).config))) for name in recipe.names()]
    ours = rank_checks.configuration("german_rag", "tiny", "/runs")
    assert one == json.loads(json.dumps(to_dict(ours)))


@pytest.mark.parametrize("script", ["train", "runs"])
def test_flags_that_cannot_be_read_are_refused_with_what_to_type(script: str) -> None:
    path = str(ROOT / "scripts" / f"{script}.py")
    done = without_tyro("runpy.run_path(sys.argv[0], run_name='__main__')", path, "--help")
    assert done.returncode == 2 and done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert "lacks tyro. Type: bash setup.sh" in said and "pip install tyro==" in said


WORDS = [*SHORT, "--no-swap", "--compile", "--dropout", "0.1", "--name", "a", "--optimizer", "adamw8bit"]


@pytest.mark.parametrize("name", recipe.names())
def test_the_tests_own_reader_of_words_agrees_with_the_command_line(name: str) -> None:
    words = WORDS if name == "arena" else [word for word in WORDS if word != "--no-swap"]
    assert configured(name, words) == parse(recipe.load(name).config, words, "test")


@pytest.mark.parametrize("words", [["--strategy", "magic"], ["--batch", "many"], ["--batch", "0"]])
def test_the_tests_own_reader_of_words_refuses_what_is_no_value(words: list[str]) -> None:
    with pytest.raises(ValueError):
        configured("arena", words)
