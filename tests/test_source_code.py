"""What is edited between two halves of a run stops it if it can change a number, and only then."""

import shutil
from pathlib import Path

import pytest

from lib.base.source_code import LEFT_OUT, file_of, fingerprint, reached
from lib.runs.record import code_fingerprint
from tests.tools import ROOT

COUNTS = ["training/loop.py", "data/loader.py", "run.py", "__init__.py", "models/__init__.py", "seed.py"]
COUNTS += ["recipes/boolq.py", "tasks/classify.py", "tasks/common.py", "retrieval/search.py", "base/files.py"]
DO_NOT = ["recipes/arena.py", "tasks/choose.py", "reports/report.py", "bench/ours.py", "sweep/search.py"]
DO_NOT += ["tracking/tracker.py", "base/console.py", "export/make.py", "command_line.py", "recipes/new.py"]


def edit(root: Path, file: str, text: str = "\nNEW = 1\n") -> None:
    """Add to a file, or make it."""
    path = root / "lib" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A copy of our code; its loop imports lib/seed.py inside a function."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    edit(tmp_path, "training/loop.py", "\ndef later() -> None:\n    from lib import seed\n")
    return tmp_path


def test_what_can_change_a_number_counts_and_nothing_else(ours: Path) -> None:
    known = code_fingerprint("boolq", ours)
    for file in COUNTS:
        before = known
        edit(ours, file)
        known = code_fingerprint("boolq", ours)
        assert known != before, file
    other = code_fingerprint("science_exam", ours)
    for file in DO_NOT:
        edit(ours, file)
    assert code_fingerprint("boolq", ours) == known
    assert code_fingerprint("science_exam", ours) != other  # tasks/choose.py is its own
    edit(ours, "answers/choice.py")
    assert code_fingerprint("boolq", ours) != known


def test_what_is_found_for_a_query_depends_on_the_code_that_searches(ours: Path) -> None:
    before = fingerprint(["lib.retrieval.search"], ours)
    edit(ours, "retrieval/build.py")
    edit(ours, "training/loop.py")
    assert fingerprint(["lib.retrieval.search"], ours) == before
    edit(ours, "retrieval/nearest.py")
    assert fingerprint(["lib.retrieval.search"], ours) != before


FORMS = ["import lib.far.deep", "import lib.far.deep as d", "from lib.far import deep"]
FORMS += ["from lib.far.deep import x"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["{}", "def f() -> None:\n    {}", "if a:\n    b = 1\nelse:\n    {}"])
def test_a_module_counts_in_whatever_words_it_is_imported(form: str, place: str, tmp_path: Path) -> None:
    for file, text in {
        "one.py": place.format(form),
        "far/__init__.py": "",
        "far/deep.py": "import torch",
    }.items():
        edit(tmp_path, file, text)
    assert reached(["lib.one"], tmp_path).keys() == {"lib.one", "lib.far", "lib.far.deep"}


def test_comments_and_blank_lines_do_not_count_but_in_a_text(tmp_path: Path) -> None:
    def of(*lines: str) -> str:
        (tmp_path / "lib").mkdir(exist_ok=True)
        (tmp_path / "lib" / "one.py").write_text("\n".join(lines))
        return fingerprint(["lib.one"], tmp_path)

    plain = of("def f(a):", "    return [", "        a,", "    ]")
    assert plain == of(
        "# one", "", "def f(a):", "    # two", "    return [", "", "# three", "        a,", "    ]", ""
    )
    assert plain != of("def f(a):", "    return [", "        a, 1", "    ]")
    assert of("if a:", "    b", "c") != of("if a:", "    b", "    c")
    texts = [of('a = """one', '"""'), of('a = """one', "", '"""'), of('a = """one', "# two", '"""')]
    assert len(set(texts)) == 3


def test_what_is_left_out_is_there() -> None:
    # a folder that moves must move here, too
    assert all(file_of(module) or (ROOT / module.replace(".", "/")).is_dir() for module in LEFT_OUT)
