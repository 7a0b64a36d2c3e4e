"""The review sheet: written blind, filled in as people and their programs do it, and read or refused."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpyxl import load_workbook

from lib import recipe, run
from lib.answers.agreement import Agreement
from lib.base import exits
from lib.base.files import read_lines
from lib.command_line import parse
from lib.evaluation import to_review
from lib.reports import sheet, sheet_result
from lib.reports.sheet import GRADED, HEADER, Origin, Texts, Words, draw, shown, texts_of, write_sheet
from lib.reports.sheet_read import read_sheets
from tests import tools
from tests.tools import SHORT, only_run

ORIGIN = Origin("20261122_101500", "test", 0)
COLUMN = dict(zip(HEADER, "ABCDEFGHIJK", strict=True))
NAN = float("nan")

Fill = Callable[[str, str], Any]
"""(model, criterion) of a text of one row -> what is typed into its cell."""


def texts(num_rows: int = 12) -> list[Texts]:
    """Rows of groups of one; each text says whose it is, which the reviewers of a test may know."""
    return [
        Texts(f"r{n}", f"g{n}", f"reference {n}", f"base wrote {n}", f"tuned wrote {n}")
        for n in range(num_rows)
    ]


def words(rows: list[Texts]) -> Words:
    return {row.id: [("context", [f"context of {row.id}"]), ("question", ["why?"])] for row in rows}


def written(path: Path, rows: list[Texts] | None = None, origin: Origin = ORIGIN) -> Path:
    rows = texts() if rows is None else rows
    write_sheet(path, origin, rows, words(rows))
    return path


def changed(source: Path, path: Path, change: Callable[[Any], None]) -> Path:
    """A copy in which somebody has been at work in the tab of texts."""
    book = load_workbook(source)
    change(book["review"])
    book.save(path)
    return path


def filled(source: Path, path: Path, grade: Callable[[str], Fill], comment: str = "") -> Path:
    """A copy filled in by a reviewer who knows from its words whose a text is."""

    def fill(tab: Any) -> None:
        for number in range(2, tab.max_row + 1):
            of_row = grade(tab[f"A{number}"].value)
            for place in (1, 2):
                model = str(tab[f"{COLUMN[f'text {place}']}{number}"].value).split(" ")[0]
                for criterion in ("factuality", "coverage"):
                    tab[f"{COLUMN[f'{criterion} {place}']}{number}"] = of_row(model, criterion)
        tab["K2"] = comment or path.stem  # no two files are the same

    return changed(source, path, fill)


def by_model(**grades: Any) -> Callable[[str], Fill]:
    """The same for each row: base=, tuned=."""
    return lambda identity: lambda model, criterion: grades[model]


def refusal(*paths: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_sheets(paths)
    return str(caught.value)


def refused_change(tmp_path: Path, change: Callable[[Any], None]) -> str:
    return refusal(changed(written(tmp_path / "sheet.xlsx"), tmp_path / "A.xlsx", change))


def cells(path: Path, tab: str = "review") -> list[tuple[Any, ...]]:
    return list(load_workbook(path)[tab].values)


# what is written


def test_a_row_has_its_words_the_reference_and_both_texts_in_the_order_of_its_origin(tmp_path: Path) -> None:
    header, *rows = cells(written(tmp_path / "sheet.xlsx"))
    assert header == HEADER
    for number, row in enumerate(rows):
        first, second = ORIGIN.models(f"r{number}")
        expected = (f"r{number}", f"context of r{number}", "why?", f"reference {number}")
        expected += (f"{first} wrote {number}", f"{second} wrote {number}")
        assert row == expected + (None,) * 5


def test_other_texts_than_question_and_context_keep_their_names(tmp_path: Path) -> None:
    rows = texts(1)
    pairs = [("abstract", ["one", "two"]), ("question", ["why?"]), ("review A", ["three"])]
    write_sheet(tmp_path / "sheet.xlsx", ORIGIN, rows, {"r0": pairs})
    assert cells(tmp_path / "sheet.xlsx")[1][1:3] == ("ABSTRACT\none\n\ntwo\n\nREVIEW A\nthree", "why?")


def test_whose_a_text_is_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    rows = [Texts(f"r{n}", f"g{n}", "reference", f"first {n}", f"second {n}") for n in range(40)]
    write_sheet(tmp_path / "sheet.xlsx", ORIGIN, rows, words(rows))
    archive = zipfile.ZipFile(tmp_path / "sheet.xlsx")
    everything = b"".join(archive.read(name) for name in archive.namelist()).lower()
    assert not re.findall(rb"\btuned\b|\bbase\b", everything)
    # the hidden tab has a line for each row, which must not tell the two orders apart
    about = cells(tmp_path / "sheet.xlsx", "about")
    assert about[:5] == [
        ("run", ORIGIN.run, None),
        ("split", "test", None),
        ("seed", "0", None),
        ("sha256 of these", ORIGIN.seal, None),
        ("row", "group", "sha256 of its texts"),
    ]
    assert all(len(line[2]) == 64 for line in about[5:]) and len(about) == 45
    assert load_workbook(tmp_path / "sheet.xlsx")["about"].sheet_state == "veryHidden"


def test_the_order_is_balanced_and_another_for_another_seed_run_and_split() -> None:
    def swaps(origin: Origin) -> np.ndarray:
        return np.array([origin.models(f"r{n}")[0] == "tuned" for n in range(10_000)])

    first = swaps(ORIGIN)
    # of 10,000 fair coins the share of heads has a standard deviation of 0.005
    assert abs(first.mean() - 0.5) < 0.02
    for other in (Origin("x", "test", 0), Origin(ORIGIN.run, "validation", 0), Origin(ORIGIN.run, "test", 1)):
        assert abs((swaps(other) == first).mean() - 0.5) < 0.02
    assert (swaps(Origin(ORIGIN.run, "test", 0)) == first).all()
    # one that is known: files that people have must be read by later versions
    assert [ORIGIN.models(f"r{n}")[0] for n in range(8)] == ["base"] * 6 + ["tuned"] * 2


def test_which_rows_are_drawn_depends_on_ids_and_seed_alone() -> None:
    rows = texts(40)
    drawn = [row.id for row in draw(rows, 20, 0)]
    others = [Texts(row.id, "g", "other", "texts", "here") for row in reversed(rows)]
    assert [row.id for row in draw(others, 20, 0)] == drawn and len(set(drawn)) == 20
    assert [row.id for row in draw(rows, 8, 0)] == drawn[:8], (
        "a smaller sheet is the beginning of a larger one"
    )
    assert [row.id for row in draw(rows, 20, 1)] != drawn
    assert len(draw(rows, 41, 0)) == 40
    with pytest.raises(ValueError, match="--rows is 0; it must be above 0"):
        draw(rows, 0, 0)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x","y")', "#N/A", "= "])
def test_a_text_is_never_a_formula_or_an_error(text: str, tmp_path: Path) -> None:
    row = Texts(text, text, text, text, text)
    write_sheet(tmp_path / "sheet.xlsx", ORIGIN, [row], {text: [("context", [text]), ("question", [text])]})
    book = load_workbook(tmp_path / "sheet.xlsx")
    for cell in (*book["review"][2][:6], *book["about"][6][:2]):
        assert (cell.value, cell.data_type) == (text, "s")
        # with a prefix it stays a text when somebody has been in the cell
        assert cell.quotePrefix is (text[0] in "=+-@")
    xml = zipfile.ZipFile(tmp_path / "sheet.xlsx").read("xl/worksheets/sheet2.xml")
    assert b"<f>" not in xml and xml.count(b'<c r="E2"') == 1
    (read,) = read_sheets([tmp_path / "sheet.xlsx"])
    assert list(read.cells) == [text]


def test_what_a_cell_cannot_hold_is_seen_as_a_sign(tmp_path: Path) -> None:
    text = "bell\x07 null\x00 page\x0c half\ud83d none\uffff tab\t line\r\nmac\rend _x0041_ \U0001f600"
    seen = (
        "bell\u2407 null\u2400 page\u240c half\ufffd none\ufffd tab\t line\nmac\nend _x005F_x0041_ \U0001f600"
    )
    assert shown(text) == seen
    write_sheet(tmp_path / "sheet.xlsx", ORIGIN, [Texts(text, text, text, text, text)], {text: []})
    assert cells(tmp_path / "sheet.xlsx")[1][:6] == (seen, None, None, seen, seen, seen)
    assert list(read_sheets([tmp_path / "sheet.xlsx"])[0].cells) == [seen]


@pytest.mark.parametrize("letter", ["x", "\U0001f600"])  # the second is two units in Excel's count
@pytest.mark.parametrize("extra", [-1, 0, 1, 5000])
def test_a_text_beyond_what_a_cell_holds_is_cut_with_a_mark(letter: str, extra: int) -> None:
    units = len(letter.encode("utf-16-le")) // 2
    text = letter * (32_767 // units + extra)
    held = shown(text)
    assert len(held.encode("utf-16-le")) // 2 <= 32_767
    if extra <= 0:
        assert held == text
    else:
        kept, _, mark = held.partition("\n")
        missing = len(text) - len(kept)
        assert text.startswith(kept) and f"{missing:,} letters are missing" in mark
        assert missing <= 100 + extra


def test_grades_are_picked_from_a_list_the_header_stays_and_nothing_is_locked(tmp_path: Path) -> None:
    book = load_workbook(written(tmp_path / "sheet.xlsx"))
    tab = book["review"]
    (allowed,) = tab.data_validations.dataValidation
    assert (allowed.type, allowed.formula1, allowed.allow_blank) == ("list", '"0,1,2"', True)
    assert str(allowed.sqref) == "G2:J13", "12 rows"
    assert [tab[f"{letter}1"].value for letter in "GHIJ"] == list(GRADED)
    assert tab.freeze_panes == "B2" and tab["B2"].alignment.wrap_text
    assert not any(one.protection.sheet for one in book.worksheets)
    assert book.sheetnames == ["read me", "review", "about"] and book.active.title == "read me"
    assert {"factuality", "coverage"} <= {
        cell for line in cells(tmp_path / "sheet.xlsx", "read me") for cell in line
    }


def test_a_text_that_its_row_cannot_show_is_blue(tmp_path: Path) -> None:
    rows = [Texts("short", "a", "r", "x", "x"), Texts("long", "b", "r", "x", "word " * 2000)]
    tab = load_workbook(written(tmp_path / "sheet.xlsx", rows))["review"]
    place = COLUMN[f"text {1 + ORIGIN.models('long').index('tuned')}"]
    assert tab[f"{place}3"].fill.fgColor.rgb == "00DCEBFA"
    assert tab[f"{place}2"].fill.fill_type is None
    assert tab.row_dimensions[3].height == 409 and tab.row_dimensions[2].height < 40


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "made" / "sheet.xlsx")  # its folder is made
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"sheet.xlsx is there and is not overwritten; name another file"):
        written(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"sheet.csv must end in .xlsx"):
        written(tmp_path / "sheet.csv")
    with pytest.raises(ValueError, match=r"sheet.xlsx is a file, not a folder"):
        written(path / "sheet.xlsx")


def test_a_row_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="1 rows that both models answered are not in the run's split 'test': r1"
    ):
        write_sheet(tmp_path / "sheet.xlsx", ORIGIN, texts(2), words(texts(1)))
    assert not list(tmp_path.iterdir())


# what a run holds


def write_predictions(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    (folder / "predictions" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def prediction(number: int, answer: Any, **others: Any) -> dict[str, Any]:
    row = {"id": f"r{number}", "group": f"g{number}", "target": f"reference {number}", "answer": answer}
    return row | others


def test_rows_that_both_models_answered_are_taken(tmp_path: Path) -> None:
    write_predictions(tmp_path, "test", [prediction(n, f"tuned wrote {n}") for n in range(5)])
    write_predictions(tmp_path, "test before", [prediction(n, f"base wrote {n}") for n in (3, 1)])
    assert texts_of(tmp_path, "test") == [texts(5)[1], texts(5)[3]]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (None, "test before.jsonl is missing; .* there: test"),
        ([prediction(9, "x")], "no row of the split 'test' was answered by both models"),
        ([prediction(1, "x", target="other")], "the reference of row r1 is 'reference 1' and 'other'"),
        ([prediction(1, 2)], "the answer and the target of row r1 are no texts"),
    ],
)
def test_a_run_without_texts_of_both_models_is_refused(before: Any, message: str, tmp_path: Path) -> None:
    write_predictions(tmp_path, "test", [prediction(n, "text") for n in range(3)])
    if before is not None:
        write_predictions(tmp_path, "test before", before)
    with pytest.raises(ValueError, match=message):
        texts_of(tmp_path, "test")


# what is read


def test_grades_come_back_to_their_models(tmp_path: Path) -> None:
    """A round trip: the reviewer gives 2 to every tuned text and 0 to every base one."""
    source = written(tmp_path / "sheet.xlsx")
    (read,) = read_sheets([filled(source, tmp_path / "A.xlsx", by_model(base=0, tuned=2))])
    for criterion in ("factuality", "coverage"):
        grades = read.grades(criterion)
        assert grades["base"].tolist() == [0] * 12 and grades["tuned"].tolist() == [2] * 12
    assert read.written.origin == ORIGIN and list(read.written.groups) == sorted(f"r{n}" for n in range(12))
    assert read.comments == {"r0": "A"}


@pytest.mark.parametrize(
    ("typed", "grade"),
    [(1, 1), (1.0, 1), ("1", 1), (" 2 ", 2), ("0", 0), (None, NAN), ("", NAN), ("  ", NAN)],
)
def test_a_grade_is_read_as_programs_keep_it_and_may_be_empty(
    typed: Any, grade: float, tmp_path: Path
) -> None:
    path = filled(written(tmp_path / "sheet.xlsx"), tmp_path / "A.xlsx", by_model(base=typed, tuned=typed))
    (read,) = read_sheets([path])
    np.testing.assert_equal(read.grades("coverage")["base"], np.full(12, grade))


@pytest.mark.parametrize("typed", [3, -1, 1.5, "yes", True, "=1+1", "1.0.0", "#N/A"])
def test_a_wrong_grade_is_named_with_file_tab_and_cell(typed: Any, tmp_path: Path) -> None:
    def change(tab: Any) -> None:
        tab["H7"] = typed

    said = refused_change(tmp_path, change)
    assert f"{tmp_path}/A.xlsx, tab review, cell H7: {typed!r}; allowed are 0, 1, 2 or empty" in said


def test_all_problems_are_counted_and_the_first_ten_are_shown(tmp_path: Path) -> None:
    source = written(tmp_path / "sheet.xlsx")
    one = filled(source, tmp_path / "A.xlsx", lambda row: lambda model, _: "no" if row == "r3" else 1)
    two = filled(source, tmp_path / "B.xlsx", by_model(base=7, tuned=1))
    said = refusal(one, two).splitlines()
    # 4 grades of one row, and 2 of each of 12
    assert said[0] == "28 problems in the sheets:" and len(said) == 12
    assert all("A.xlsx, tab review, cell" in line for line in said[1:5])
    assert all("B.xlsx, tab review, cell" in line for line in said[5:11]) and said[11] == "... and 18 more"


def test_a_changed_header_is_refused(tmp_path: Path) -> None:
    def change(tab: Any) -> None:
        tab["G1"] = "facts"

    said = refused_change(tmp_path, change)
    assert "cell G1: the header is 'facts'; it was 'factuality 1', and must be" in said
    (tmp_path / "sheet.xlsx").unlink()
    assert "cell F1: the header is None; it was 'text 2'" in refused_change(
        tmp_path, lambda tab: tab.insert_cols(6)
    )


def test_removed_rows_are_named(tmp_path: Path) -> None:
    said = refused_change(tmp_path, lambda tab: tab.delete_rows(3, 4))
    assert "tab review: 4 of 12 rows were removed ('r1', 'r2', 'r3', ...); put them back" in said


def test_doubled_and_unknown_rows_are_named(tmp_path: Path) -> None:
    def change(tab: Any) -> None:
        for column in range(1, 12):
            tab.cell(14, column, tab.cell(2, column).value)
        tab["A3"], tab["A15"], tab["K16"] = "r99", "mine", "a note under the table"

    said = refused_change(tmp_path, change).splitlines()
    assert said[0] == "5 problems in the sheets:"
    assert "cell A3: 'r99' is no row of this sheet; put its id back" in said[1]
    assert "cell A14: row 'r0' stands in A2 too; remove one" in said[2]
    assert "cell A15: 'mine' is no row" in said[3] and "cell A16: '' is no row" in said[4]
    assert "1 of 12 rows were removed ('r1')" in said[5]


def test_whole_rows_may_be_sorted_and_parts_of_rows_may_not(tmp_path: Path) -> None:
    def swap(tab: Any, letters: str) -> None:
        for letter in letters:
            one, two = tab[f"{letter}2"], tab[f"{letter}3"]
            one.value, two.value = two.value, one.value

    source = filled(
        written(tmp_path / "sheet.xlsx"),
        tmp_path / "A.xlsx",
        lambda row: lambda model, _: {"base": 0, "tuned": 1}[model] if row == "r1" else 2,
    )
    whole = changed(source, tmp_path / "whole.xlsx", lambda tab: swap(tab, "ABCDEFGHIJK"))
    assert read_sheets([whole])[0].cells == read_sheets([source])[0].cells
    said = refusal(changed(source, tmp_path / "part.xlsx", lambda tab: swap(tab, "AGHIJ")))
    assert "cell B2 to F2: these are not the texts of row 'r1' as they were written" in said
    assert said.startswith("2 problems")


def test_blanks_and_line_ends_that_a_program_changed_are_no_change(tmp_path: Path) -> None:
    rows = [Texts("7", "g", "two\nlines", "a  b_x0041_", "c ")]
    source = written(tmp_path / "sheet.xlsx", rows)

    def change(tab: Any) -> None:
        tab["A2"] = 7  # a program took the id for a number
        tab["D2"] = "two\r\nlines"
        for letter in "EF":
            tab[f"{letter}2"] = tab[f"{letter}2"].value.strip().replace("  ", " ").replace("_x005F", "")

    assert list(read_sheets([changed(source, tmp_path / "A.xlsx", change)])[0].cells) == ["7"]


def test_a_sheet_of_another_run_or_with_other_rows_is_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "A.xlsx")
    other = written(tmp_path / "B.xlsx", origin=Origin("other", "test", 3))
    said = refusal(one, other)
    assert f"{other} is of the run other, split test, seed 3, {one} of the run 20261122_101500, " in said
    assert f"{one} has 12); give copies of one sheet" in refusal(one, written(tmp_path / "C.xlsx", texts(9)))
    reworded = [*texts(11), Texts("r11", "g11", "reference 11", "base wrote 11", "tuned said 11")]
    assert "D.xlsx has other rows or texts" in refusal(one, written(tmp_path / "D.xlsx", reworded))


def test_one_sheet_twice_is_no_agreement(tmp_path: Path) -> None:
    one = written(tmp_path / "A.xlsx")
    assert "A.xlsx once more, byte for byte" in refusal(one, one)
    shutil.copyfile(one, tmp_path / "B.xlsx")
    assert f"{tmp_path}/B.xlsx is {one} once more" in refusal(one, tmp_path / "B.xlsx")


def test_what_is_no_review_sheet_is_refused(tmp_path: Path) -> None:
    assert "there is no file nowhere.xlsx" in refusal(Path("nowhere.xlsx"))
    (tmp_path / "A.xlsx").write_text("no archive")
    assert "A.xlsx cannot be read as an .xlsx file: File is not a zip file" in refusal(tmp_path / "A.xlsx")
    (tmp_path / "A.csv").write_text("row,context\n")
    assert "A.csv cannot be read as an .xlsx file" in refusal(tmp_path / "A.csv")
    book = load_workbook(written(tmp_path / "sheet.xlsx"))
    book["about"]["B3"] = "soon"
    book.save(tmp_path / "B.xlsx")
    assert "its hidden tab 'about' was changed" in refusal(tmp_path / "B.xlsx")
    # the order of the texts follows from these: the grades would be the other model's
    for cell, other in (("B1", "20261128_000000"), ("B2", "validation"), ("B3", "1")):
        book = load_workbook(tmp_path / "sheet.xlsx")
        book["about"][cell] = other
        book.save(tmp_path / "D.xlsx")
        assert "its hidden tab 'about' was changed" in refusal(tmp_path / "D.xlsx")
    book = load_workbook(tmp_path / "sheet.xlsx")
    book["review"]["M2"] = 2
    book.save(tmp_path / "E.xlsx")
    assert "cell M2: 2 stands beside the table, where nothing is read" in refusal(tmp_path / "E.xlsx")
    del book["about"]
    book.save(tmp_path / "C.xlsx")
    assert "C.xlsx has no tab 'about' (it has: read me, review)" in refusal(tmp_path / "C.xlsx")


# what comes of it


def review(*paths: Path) -> sheet_result.Review:
    return sheet_result.review(read_sheets(paths))


def test_a_better_model_is_better_and_rows_of_one_opinion_are_no_certainty(tmp_path: Path) -> None:
    found = review(filled(written(tmp_path / "s.xlsx"), tmp_path / "A.xlsx", by_model(base=1, tuned=2)))
    scored = found.scores["coverage"]
    assert scored is not None and (scored.num_rows, scored.num_groups, scored.num_halves) == (12, 12, 0)
    assert (scored.base.value, scored.tuned.value, scored.difference.value) == (1, 2, 1)
    assert scored.verdict == "better" and scored.tuned.low < 2 == scored.tuned.high
    assert found.agreement == {}, "one reviewer"
    assert found.reviewers["A"].full == 12 and found.reviewers["A"].empty_cells == 0


def test_a_row_is_the_mean_of_its_reviewers_and_halves_do_not_count(tmp_path: Path) -> None:
    source = written(tmp_path / "s.xlsx")

    def anna(row: str) -> Fill:
        return lambda model, criterion: {"base": 0, "tuned": 2}[model]

    def ben(row: str) -> Fill:
        """Leaves r0 empty, and of r1 the tuned text; elsewhere says 1 of everything."""
        empty = {"r0": ("base", "tuned"), "r1": ("tuned",)}
        return lambda model, criterion: None if model in empty.get(row, ()) else 1

    found = review(filled(source, tmp_path / "anna.xlsx", anna), filled(source, tmp_path / "ben.xlsx", ben))
    scored = found.scores["factuality"]
    assert scored is not None and (scored.num_rows, scored.num_halves) == (12, 1)
    # two rows are Anna's alone, 0 and 2; ten are (0 + 1) / 2 and (2 + 1) / 2
    assert scored.base.value == pytest.approx((2 * 0 + 10 * 0.5) / 12)
    assert scored.tuned.value == pytest.approx((2 * 2 + 10 * 1.5) / 12)
    assert scored.difference.value == pytest.approx(scored.tuned.value - scored.base.value)
    anna_, ben_ = found.reviewers["anna"], found.reviewers["ben"]
    assert (anna_.full, anna_.partly, anna_.empty, anna_.empty_cells) == (12, 0, 0, 0)
    assert (ben_.full, ben_.partly, ben_.empty, ben_.empty_cells) == (10, 1, 1, 6)
    # base: both graded 11 rows, never the same; tuned: 10
    assert found.agreement["factuality of base"].num_units == 11
    assert found.agreement["coverage of tuned"].num_units == 10
    assert found.agreement["coverage of both"] == Agreement.of(np.array([[0.0] * 11 + [2] * 10, [1.0] * 21]))
    assert [(one.reviewer, one.row) for one in found.comments] == [("anna", "r0"), ("ben", "r0")]
    assert (found.comments[0].text_1, found.comments[0].text_2) == ORIGIN.models("r0")


def test_groups_are_the_sample(tmp_path: Path) -> None:
    """Twelve rows in three groups: fewer than ten say nothing certain."""
    rows = [Texts(row.id, f"g{n % 3}", row.reference, row.base, row.tuned) for n, row in enumerate(texts())]
    path = filled(written(tmp_path / "s.xlsx", rows), tmp_path / "A.xlsx", by_model(base=0, tuned=2))
    scored = review(path).scores["factuality"]
    assert scored is not None and scored.num_groups == 3 and scored.verdict == "cannot tell"


def test_an_unfilled_sheet_says_so(tmp_path: Path) -> None:
    found = review(written(tmp_path / "A.xlsx"))
    assert found.scores == {"factuality": None, "coverage": None}
    said = "\n".join(sheet_result.lines(found))
    assert "verdict by coverage, tuned against base: cannot tell: nobody graded both texts of a row" in said


# agreement


def test_alpha_is_that_of_the_literature() -> None:
    """Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, example C to E: four observers, twelve
    units, missing values; ordinal 0.815."""
    grades = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    found = Agreement.of(np.array(grades))
    assert found.num_units == 11, "one person alone graded the last"
    assert found.alpha == pytest.approx(0.815, abs=0.0005)


def test_alpha_of_two_people_by_hand() -> None:
    # coincidences: 00, 11 and 22 two each, 01 and 10 one each; so 3, 3 and 2 of 8 values. Ordinal distances:
    # 01: (3/2 + 3/2)^2 = 9, 12: (3/2 + 2/2)^2 = 6.25, 02: (3/2 + 3 + 2/2)^2 = 30.25.
    # observed: 2 * 9 / 8 = 2.25; expected: 2 * (3*3*9 + 3*2*6.25 + 3*2*30.25) / (8 * 7) = 600 / 56
    found = Agreement.of(np.array([[0, 1, 2, 0], [0, 1, 2, 1.0]]))
    assert found.alpha == pytest.approx(1 - 2.25 * 56 / 600) == pytest.approx(0.79)
    assert found.same == 0.75


def test_chance_and_contradiction_are_0_and_below() -> None:
    draws = np.random.default_rng(0).integers(0, 3, (3, 4000)).astype(float)
    # the standard deviation of alpha for so many independent grades is about 0.01
    assert abs(Agreement.of(draws).alpha or 9) < 0.04
    assert (Agreement.of(np.array([[0, 2, 0, 2], [2, 0, 2, 0.0]])).alpha or 9) < 0


def test_where_nothing_can_be_said_of_agreement_there_is_no_number() -> None:
    assert Agreement.of(np.array([[1, NAN], [NAN, 2]])) == Agreement(0, None, None)
    assert Agreement.of(np.full((2, 3), NAN)) == Agreement(0, None, None)
    assert Agreement.of(np.ones((2, 3))) == Agreement(3, 1.0, None), "all grades are one value"


# the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose predictions are replaced by texts, as a recipe that writes some would leave them."""
    at = tmp_path_factory.mktemp("sheet")
    flags = [
        *SHORT,
        "--model",
        "tiny",
        "--init",
        "random",
        "--max-steps",
        "2",
        "--runs-dir",
        str(at / "runs"),
    ]
    config = parse(recipe.load("arena").config, flags, "test")
    assert exits.run(lambda: run.train(config)) == 0
    folder = only_run(at / "runs")
    rows = read_lines(folder / "predictions" / "test.jsonl")
    for name, answer in (("test", "tuned wrote it"), ("test before", "base wrote it")):
        texts = [{"id": row["id"], "group": row["group"], "target": "good", "answer": answer} for row in rows]
        write_predictions(folder, name, texts)
    return folder


def test_the_command_writes_and_reads(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.xlsx"
    done = tools.run(str(finished), str(out), "--rows", "5", "--json", script="sheet.py")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["num_rows"], made["origin"]["run"]) == (5, finished.name) and str(out) in done.stderr
    rows = cells(out)[1:]
    assert len(rows) == 5 and all("PROMPT\n" in row[1] or "CONTEXT\n" in row[1] for row in rows)
    again = tools.run(str(finished), str(out), script="sheet.py")
    assert again.returncode == 2 and "is not overwritten" in again.stderr

    paths = [filled(out, tmp_path / f"{name}.xlsx", by_model(base=0, tuned=2)) for name in "AB"]
    said = tools.run("--read", *map(str, paths), script="sheet.py")
    assert said.returncode == 0, said.stderr
    assert "verdict by factuality, tuned against base: cannot tell: fewer than 10 groups" in said.stdout
    assert "coverage of both 10 100.0 % 1.000" in " ".join(said.stdout.split())
    found = json.loads(tools.run("--read", *map(str, paths), "--json", script="sheet.py").stdout)
    assert found["scores"]["coverage"]["tuned"]["value"] == 2
    assert found["reviewers"]["B"]["full"] == 5 and found["agreement"]["coverage of both"]["alpha"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give RUN OUT.xlsx to make a sheet, or --read SHEET.xlsx"),
        (["run"], "give RUN OUT.xlsx"),
        (["run", "out.xlsx", "--read", "A.xlsx"], "give it sheets only"),
        (["--read", "A.xlsx", "--seed", "1"], "give it sheets only"),
        (["nowhere", "out.xlsx"], "nowhere is neither a run folder nor"),
        (["--read", "nowhere.xlsx"], "there is no file nowhere.xlsx"),
    ],
)
def test_words_that_make_no_sense_end_with_2(flags: list[str], message: str) -> None:
    done = tools.run(*flags, script="sheet.py")
    assert done.returncode == 2 and message in done.stderr


def test_a_run_whose_split_has_other_rows_is_refused(finished: Path, tmp_path: Path) -> None:
    write_predictions(finished, "other", [prediction(1, "x")])
    write_predictions(finished, "other before", [prediction(1, "y")])
    with pytest.raises(ValueError, match="are not in the run's split 'other'"):
        to_review.make(finished, tmp_path / "sheet.xlsx", "other", 5, 0)
    assert not list(tmp_path.iterdir()) and sheet.REVIEW == "review"
