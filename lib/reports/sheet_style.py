"""How the review sheet looks, and what it tells the person who fills it in."""

import math
from collections.abc import Sequence
from typing import Any

from openpyxl.formatting.rule import FormulaRule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.datavalidation import DataValidation
from openpyxl.worksheet.page import PageMargins

WIDTHS = {"row": 10, "context": 60, "question": 24, "reference": 36, "text": 36, "comment": 28}  # in digits
GRADE_WIDTH = 11
LINE_HEIGHT, MOST_HEIGHT = 15, 409  # points; no row of Excel is higher
ZOOM = 85  # per cent: all columns on a usual screen

TOP = Alignment(wrap_text=True, vertical="top", horizontal="left", indent=1)
MIDDLE = Alignment(wrap_text=True, vertical="center", horizontal="center")
GRADE = Alignment(vertical="top", horizontal="center")  # beside the beginning of its text
TITLE, BOLD = Font(name="Calibri", bold=True, size=16), Font(name="Calibri", bold=True)
GREY, YELLOW, BLUE = (PatternFill("solid", bgColor=c, fgColor=c) for c in ("E3E6EA", "FFF6CC", "DCEBFA"))
LINE = Side(style="thin", color="B8BEC6")
BOX = Border(left=LINE, right=LINE, top=LINE, bottom=LINE)

READ_ME = (
    "Each row of the tab 'review' has the words that two models were given (context, question; of a "
    "long context a model may have read only the beginnings of its parts), a reference, and the texts that "
    "the two wrote. Whose text is the first one was drawn by lot for each row.",
    "Judge each text by itself: pick 0, 1 or 2 in its two yellow cells, by the table below. 'factuality 1' "
    "is that of text 1.",
    "Leave a cell empty where you cannot judge. What is worth saying goes into the comment.",
    "Change no other cell, and remove no row. Whole rows may be sorted. Save as .xlsx.",
    "A blue cell has more text than its row can show: select it and read on in the line above the table, "
    "which can be pulled down.",
)
TABLE = (
    ("", "factuality", "coverage"),
    (
        "",
        "Is everything that the text says in the context? What it leaves out does not count.",
        "Does the text say what the reference says? What it says besides does not count.",
    ),
    ("2", "right: everything is in the context", "complete: all of the reference is there"),
    ("1", "partly: some of it is not in the context", "partly: some of the reference is missing"),
    (
        "0",
        "wrong: what matters in it is not in the context, or the context says otherwise",
        "missing: what matters in the reference is not there, or the text says otherwise",
    ),
)


def put(cell: Any, text: str) -> None:
    """A text that stays one, also where a spreadsheet would see a formula or an error in it, now or when
    somebody has been in the cell."""
    cell.value = text
    cell.data_type = "s"
    cell.quotePrefix = text.startswith(("=", "+", "-", "@"))


def fill_read_me(tab: Any) -> None:
    """What factuality and coverage mean, and how to fill the sheet in."""
    for letter, width in zip("ABC", (6, 58, 58), strict=True):
        tab.column_dimensions[letter].width = width
    put(tab["A1"], "Which text is right, which one is complete?")
    tab["A1"].font = TITLE
    for number, text in enumerate(READ_ME, 3):
        put(tab.cell(number, 1), f"{number - 2}.")
        put(tab.cell(number, 2), text)
        tab.cell(number, 1).alignment = tab.cell(number, 2).alignment = TOP
        tab.merge_cells(start_row=number, end_row=number, start_column=2, end_column=3)
        tab.row_dimensions[number].height = _height([(text, 116)])
    for number, words in enumerate(TABLE, len(READ_ME) + 4):
        for column, text in enumerate(words, 1):
            cell = tab.cell(number, column)
            put(cell, text)
            cell.alignment, cell.border = TOP if column > 1 else MIDDLE, BOX
            if words is TABLE[0] or column == 1:
                cell.font, cell.fill = BOLD, GREY
        tab.row_dimensions[number].height = _height([(text, 58) for text in words])
    tab.sheet_view.showGridLines = False
    _fit_to_paper(tab)


def fill_review(tab: Any, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The header and the rows, each with the first cells of its columns; grades and comments are empty."""
    widths = [WIDTHS.get(name.split(" ")[0], GRADE_WIDTH) for name in header]
    for column, (name, width) in enumerate(zip(header, widths, strict=True), 1):
        tab.column_dimensions[get_column_letter(column)].width = width
        cell = tab.cell(1, column)
        put(cell, name)
        cell.font, cell.fill, cell.alignment, cell.border = BOLD, GREY, MIDDLE, BOX
    tab.row_dimensions[1].height = 2 * LINE_HEIGHT + 4
    for number, texts in enumerate(rows, 2):
        for column, name in enumerate(header, 1):
            cell = tab.cell(number, column)
            cell.alignment, cell.border = GRADE if _is_grade(name) else TOP, BOX
        for column, (text, width) in enumerate(zip(texts, widths, strict=False), 1):
            put(tab.cell(number, column), text)
            if _wanted_height(text, width) > MOST_HEIGHT:
                tab.cell(number, column).fill = BLUE
        tab.row_dimensions[number].height = _height(list(zip(texts, widths, strict=False)))
    tab.freeze_panes = "B2"
    tab.sheet_view.zoomScale = ZOOM
    tab.print_title_rows = "1:1"
    _fit_to_paper(tab)
    _grade_cells(tab, header, len(rows) + 1)


def _grade_cells(tab: Any, header: Sequence[str], last_row: int) -> None:
    """A list to pick from, and yellow until something was picked."""
    columns = [get_column_letter(number) for number, name in enumerate(header, 1) if _is_grade(name)]
    cells = f"{columns[0]}2:{columns[-1]}{last_row}"
    allowed = DataValidation(type="list", formula1='"0,1,2"', allow_blank=True, showErrorMessage=True)
    allowed.errorTitle, allowed.error = "No such grade", "Allowed are 0, 1, 2 or an empty cell."
    allowed.add(cells)
    tab.add_data_validation(allowed)
    tab.conditional_formatting.add(cells, FormulaRule([f"LEN({columns[0]}2)=0"], fill=YELLOW))


def _is_grade(name: str) -> bool:
    return name.startswith(("factuality", "coverage"))


def _wanted_height(text: str, width: int) -> int:
    """Points, roughly: a letter is narrower than a digit, the margin takes two, and words break early."""
    lines = sum(max(1, math.ceil(len(line) / (1.1 * (width - 2)))) for line in text.split("\n"))
    return LINE_HEIGHT * lines + 4


def _height(texts: Sequence[tuple[str, int]]) -> int:
    """Of a row with these texts in columns of these widths."""
    return min(MOST_HEIGHT, max(_wanted_height(text, width) for text, width in texts))


def _fit_to_paper(tab: Any) -> None:
    tab.page_setup.orientation = "landscape"
    tab.page_setup.paperSize = tab.PAPERSIZE_A4
    tab.page_setup.fitToWidth, tab.page_setup.fitToHeight = 1, 0
    tab.sheet_properties.pageSetUpPr.fitToPage = True
    tab.page_margins = PageMargins(left=0.4, right=0.4, top=0.4, bottom=0.4)  # inches
