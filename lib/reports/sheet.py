"""The review sheet: an .xlsx file in which a person grades the texts of two models, blind to whose they are.

One row holds the words that both models read, the reference, and what the base and the tuned model wrote, in
an order that follows from the sheet's origin and the row's id. Reading it derives that order again, so the
file says it nowhere; a hidden tab says what it is of. Texts are hostile: none becomes a formula.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpyxl import Workbook

from lib.base.files import read_lines, replacing
from lib.corpus.splits import digest
from lib.reports import sheet_style as style
from lib.runs.folder import RunFolder

READ_ME, REVIEW, ABOUT = "read me", "review", "about"  # the tabs
TEXTS = ("context", "question", "reference", "text 1", "text 2")
CRITERIA, PLACES, GRADES = ("factuality", "coverage"), (1, 2), (0, 1, 2)
GRADED = tuple(f"{criterion} {place}" for place in PLACES for criterion in CRITERIA)
HEADER = ("row", *TEXTS, *GRADED, "comment")
ABOUT_ROWS = ("row", "group", "sha256 of its texts")
SEAL = "sha256 of these"

MOST_UNITS = 32_767  # of UTF-16, in one cell of Excel
# half an emoji, and the two that XML cannot hold
NO_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
# the pictures that Unicode has of the control characters that a cell cannot hold
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")  # how a cell spells a character by its number

Words = dict[str, list[tuple[str, list[str]]]]
"""id of a row -> (name, texts) of all that the models read."""


@dataclass(frozen=True)
class Origin:
    """What a sheet is of: all that the order of its texts follows from, beside a row's id."""

    run: str
    split: str
    seed: int

    def models(self, identity: str) -> tuple[str, str]:
        """Whose text 1 and text 2 are."""
        swapped = int(digest([self.seed, self.run, self.split, identity])[:8], 16) % 2
        return ("tuned", "base") if swapped else ("base", "tuned")

    @property
    def seal(self) -> str:
        """By it a change is noticed."""
        return digest([self.run, self.split, self.seed])


@dataclass(frozen=True)
class Texts:
    """What is to be judged of one row."""

    id: str
    group: str
    reference: str
    base: str
    tuned: str


def texts_of(run: Path, split: str) -> list[Texts]:
    """The rows that both models answered. The only place that knows how a run keeps them. Raises
    ValueError."""
    folder = RunFolder(run)
    tuned, base = (_predictions(folder.predictions(name)) for name in (split, f"{split} before"))
    both = [(row, base[identity]) for identity, row in tuned.items() if identity in base]
    if not both:
        raise ValueError(f"{run}: no row of the split {split!r} was answered by both models")
    for new, old in both:
        if new["target"] != old["target"]:
            raise ValueError(
                f"{run}: the two models were asked of other rows: the reference of row {new['id']} is "
                f"{new['target']!r:.80} and {old['target']!r:.80}"
            )
    return [
        Texts(new["id"], new.get("group", f"row {new['id']}"), new["target"], old["answer"], new["answer"])
        for new, old in both
    ]


def _predictions(file: Path) -> dict[str, dict[str, Any]]:
    """By id. Raises ValueError where there are none, or none that are texts."""
    if not file.is_file():
        there = ", ".join(sorted(other.stem for other in file.parent.glob("*.jsonl"))) or "none"
        raise ValueError(
            f"{file} is missing; a sheet needs what the tuned and the base model wrote (SPLIT.jsonl and "
            f"'SPLIT before.jsonl'); there: {there}"
        )
    rows = {row["id"]: row for row in read_lines(file)}
    for identity, row in rows.items():
        if not (isinstance(row.get("answer"), str) and isinstance(row.get("target"), str)):
            raise ValueError(
                f"{file}: the answer and the target of row {identity} are no texts; a sheet is of a recipe "
                "that writes texts"
            )
    return rows


def draw(texts: list[Texts], num_rows: int, seed: int) -> list[Texts]:
    """Which rows, and in which order: the first ones are those of a smaller sheet, and the same in every run
    that has them. Raises ValueError."""
    if num_rows < 1:
        raise ValueError(f"--rows is {num_rows}; it must be above 0")
    return sorted(texts, key=lambda row: digest([seed, row.id]))[:num_rows]


def refuse_taken(out: Path) -> None:
    """Raises ValueError where no sheet can be made."""
    if out.suffix.lower() != ".xlsx":
        raise ValueError(f"{out} must end in .xlsx")
    if out.exists():
        raise ValueError(f"{out} is there and is not overwritten; name another file")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise ValueError(f"{out}: {above} is a file, not a folder")


def write_sheet(out: Path, origin: Origin, texts: list[Texts], words: Words) -> None:
    """Make the file `out`, in one move. Raises ValueError when there is one, or when a row has no words."""
    refuse_taken(out)
    if lacking := [row.id for row in texts if row.id not in words]:
        raise ValueError(
            f"{len(lacking)} rows that both models answered are not in the run's split {origin.split!r}: "
            f"{', '.join(lacking[:3])}"
        )
    rows = [_cells(origin, row, words[row.id]) for row in texts]
    book = Workbook()
    book.active.title = READ_ME
    style.fill_read_me(book.active)
    style.fill_review(book.create_sheet(REVIEW), HEADER, rows)
    about = book.create_sheet(ABOUT)
    about.sheet_state = "veryHidden"
    lines = [("run", origin.run), ("split", origin.split), ("seed", str(origin.seed)), (SEAL, origin.seal)]
    cells = [tuple(shown(word) for word in line) for line in (*lines, ABOUT_ROWS)]
    cells += [(row[0], shown(one.group), fingerprint(row[1:])) for row, one in zip(rows, texts, strict=True)]
    for number, line in enumerate(cells, 1):
        for column, word in enumerate(line, 1):
            style.put(about.cell(number, column), word)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, new=True) as file:
        book.save(file)


def _cells(origin: Origin, row: Texts, words: list[tuple[str, list[str]]]) -> list[str]:
    """The id and TEXTS, as they stand in the sheet."""
    asked = ["\n\n".join(texts) for name, texts in words if name == "question"]
    others = [(name, "\n\n".join(texts)) for name, texts in words if name != "question"]
    # one text alone needs no name
    context = [text if len(others) == 1 else f"{name.upper()}\n{text}" for name, text in others]
    identity = shown(row.id)
    of_models = [getattr(row, model) for model in origin.models(identity)]
    texts = ["\n\n".join(context), "\n\n".join(asked), row.reference, *of_models]
    return [identity, *map(shown, texts)]


def shown(text: str) -> str:
    """A text as a cell can hold it: what cannot be in one is seen as a sign, what is too long ends with a
    mark."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(PICTURES)
    text = ESCAPE.sub("_x005F_", NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))
    units = text.encode("utf-16-le")
    if len(units) <= 2 * MOST_UNITS:
        return text
    # half an emoji at the end is left out
    kept = units[: 2 * (MOST_UNITS - 100)].decode("utf-16-le", "ignore")
    return f"{kept}\n[CUT: a cell holds no more; {len(text) - len(kept):,} letters are missing]"


def fingerprint(texts: list[str]) -> str:
    """Of a row's TEXTS: letters and digits only, for spreadsheet programs change line ends and blanks, and
    spell characters by their numbers."""
    return digest([re.sub(r"(_x005F)?_x[0-9A-Fa-f]{4}_|\W", "", text) for text in texts])
