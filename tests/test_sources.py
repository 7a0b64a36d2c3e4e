"""Rows from files: what is read, what is set aside, and where it stood. No row disappears."""

import codecs
import dataclasses
import hashlib
import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

from lib import recipe as recipes
from lib.command_line import parse
from lib.config import DataConfig
from lib.corpus import readers, sources
from lib.corpus.corpus import Corpus
from lib.corpus.readers import RawRow, Rejected
from tests.tools import SHARED, point_hub_at

ARENA = recipes.load("arena")
PAIR = dataclasses.replace(ARENA, columns=(("text", "label"),))
LMSYS = SHARED / "lmsys"


def read(folder: Path, name: str, content: bytes) -> tuple[list[RawRow], list[Rejected]]:
    file = folder / name
    file.write_bytes(content)
    return readers.read_file(file)


def load(data: Path | str) -> sources.Source:
    return sources.load(DataConfig(data=str(data)), PAIR)


def places(items: list[RawRow] | list[Rejected]) -> list[str]:
    return [item.where.partition(":")[2] for item in items]


# csv


def test_a_csv_row_stands_at_the_line_it_begins_on(tmp_path: Path) -> None:
    # line 2 is plain, the quotes of the next row span 3 to 5, a blank line is 6, then 7
    content = b'text,label\none,1\n"two\n""lines""\n and more",2\n\nthree,3\n'
    rows, rejected = read(tmp_path, "rows.csv", content)
    assert [row.where for row in rows] == ["rows.csv:2", "rows.csv:3", "rows.csv:7"]
    assert rows[1].values == {"text": 'two\n"lines"\n and more', "label": "2"}
    assert rejected == []


@pytest.mark.parametrize("content", [b"text,label\r\n1,2\r\n3,4", b"\ntext,label\n1,2\n3,4\n"])
def test_line_ends_and_a_blank_first_line_make_no_difference(tmp_path: Path, content: bytes) -> None:
    rows, rejected = read(tmp_path, "rows.csv", content)
    assert [row.values for row in rows] == [{"text": "1", "label": "2"}, {"text": "3", "label": "4"}]
    assert rejected == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.csv", b"text,label\n1,2\n"), ("rows.jsonl", b'{"text": "1", "label": "2"}\n')],
)
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str, content: bytes) -> None:
    rows, rejected = read(tmp_path, name, codecs.BOM_UTF8 + content)
    assert [row.values for row in rows] == [{"text": "1", "label": "2"}]
    assert rejected == []


def test_a_nul_byte_stays_in_its_row(tmp_path: Path) -> None:
    rows, rejected = read(tmp_path, "rows.csv", b"text,label\na\x00b,1\nc,2\n")
    assert [row.values["text"] for row in rows] == ["a\x00b", "c"]
    assert rejected == []


def test_rows_in_another_encoding_are_set_aside_by_line(tmp_path: Path) -> None:
    content = 'text,label\nplain,1\nB\u00e4r,2\nrange,3\n"\u00d6l\nund Gas",4\n'.encode("latin-1")
    rows, rejected = read(tmp_path, "rows.csv", content)
    assert places(rows) == ["2", "4"]
    assert [(row.where, row.reason) for row in rejected] == [
        ("rows.csv:3", "not UTF-8"),
        ("rows.csv:5", "not UTF-8"),
    ]
    assert "B?r" in rejected[0].value


def test_emoji_and_the_replacement_character_are_utf8(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "rows.csv", "text,label\n\u00fc \U0001f600 \ufffd,1\n".encode())
    assert rows[0].values["text"] == "\u00fc \U0001f600 \ufffd"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_header_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(ValueError, match=r"rows\.csv is not UTF-8"):
        read(tmp_path, "rows.csv", "gr\u00f6\u00dfe,label\n1,2\n".encode(encoding))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than one column named 'text'"):
        read(tmp_path, "rows.csv", b"text,text\n1,2\n")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_cell_of_10_mb_is_a_legal_row(tmp_path: Path, name: str) -> None:
    text = "x" * 10_000_000
    content = f'text,label\n"{text}",1\n' if name.endswith("csv") else json.dumps({"text": text}) + "\n"
    began_s = time.perf_counter()
    rows, rejected = read(tmp_path, name, content.encode())
    assert [row.values["text"] for row in rows] == [text]
    assert rejected == []
    assert time.perf_counter() - began_s < 0.5  # 0.05 s; a loop over its characters takes 0.9


def test_a_wrong_number_of_cells_is_set_aside_by_line(tmp_path: Path) -> None:
    rows, rejected = read(tmp_path, "rows.csv", b"text,label\n1,2,3\n4,5\n6\n")
    assert places(rows) == ["3"]
    assert [(row.where, row.reason) for row in rejected] == [
        ("rows.csv:2", "3 cells under 2 columns"),
        ("rows.csv:4", "1 cells under 2 columns"),
    ]


def test_every_line_that_a_stray_quote_swallowed_is_counted(tmp_path: Path) -> None:
    # The quote that opens on line 3 is never closed: lines 3 to 6 are lost, and 4 of 5 rows are too many to
    # be taken for one bad row.
    rows, rejected = read(tmp_path, "rows.csv", b'text,label\none,1\n"two,2\nthree,3\nfour,4\nfive,5\n')
    assert (places(rows), places(rejected)) == (["2"], ["3", "4", "5", "6"])
    assert "broken csv" in rejected[0].reason


def test_reading_goes_on_after_broken_quotes(tmp_path: Path) -> None:
    rows, rejected = read(tmp_path, "rows.csv", b'text,label\n"one"x,1\ntwo,2\n')
    assert (places(rows), places(rejected)) == (["3"], ["2"])


# jsonl


def test_broken_jsonl_lines_are_set_aside_with_their_line_and_reason(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}',
        b'{"text": "two"',
        b"",
        b'["text", "three"]',
        b'"four"',
        b'{"text": "\xff"}',
        b'{"text": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'  {"text": "nine"}  ',
    ]
    rows, rejected = read(tmp_path, "rows.jsonl", b"\n".join(lines))
    assert (places(rows), places(rejected)) == (["1", "9"], ["2", "4", "5", "6", "7", "8"])
    reasons = [row.reason for row in rejected]
    assert reasons[1:3] == ["a list, expected an object of columns", "a str, expected an object of columns"]
    assert all(reason.startswith("broken JSON: ") for reason in (reasons[0], *reasons[3:]))
    assert max(len(row.value) for row in rejected) <= 2004  # shortened: " ..." after 2000 characters


def test_a_key_that_stands_twice_is_no_row(tmp_path: Path) -> None:
    text = b'{"answer": "A", "answer": "B"}\n{"choices": {"label": ["A"], "label": ["B"]}}\n{"answer": "A"}\n'
    rows, rejected = read(tmp_path, "rows.jsonl", text)
    assert [row.values for row in rows] == [{"answer": "A"}]
    assert [row.reason for row in rejected] == [
        f"broken JSON: the key '{name}' stands twice" for name in ("answer", "label")
    ]


# parquet


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = [pyarrow.array([1]), pyarrow.array([0])]
    pyarrow.parquet.write_table(pyarrow.table(columns, ["label", "label"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="more than one column named 'label'; keep one of them"):
        readers.read_file(tmp_path / "rows.parquet")


def test_numbers_that_stand_for_classes_are_read_by_their_names(tmp_path: Path) -> None:
    import datasets

    values = {"question": ["a", "b", "c"], "answer": [0, 1, -1]}
    names = datasets.ClassLabel(names=["true", "false"])
    features = datasets.Features({"question": datasets.Value("string"), "answer": names})
    rows = datasets.Dataset.from_dict(values, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    read_back, _ = readers.read_file(tmp_path / "rows.parquet")
    assert [row.values["answer"] for row in read_back] == ["true", "false", None]


def test_parquet_rows_keep_their_types_and_row_numbers(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values = [{"text": ["one"], "label": 1}, {"text": ["two", None], "label": 0}, {"text": None, "label": 1}]
    table = pyarrow.Table.from_pylist(values)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    rows, rejected = readers.read_file(tmp_path / "rows.parquet")
    assert [row.where for row in rows] == [f"rows.parquet:{number}" for number in range(3)]
    assert [row.values for row in rows] == values
    assert rejected == []


def test_a_damaged_parquet_file_is_refused_or_read_whole(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [f"row {number}" * 9 for number in range(300)]})
    pyarrow.parquet.write_table(table, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    refused = 0
    for place in range(0, len(whole), 61):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        try:
            assert len(read(tmp_path, "rows.parquet", damaged)[0]) == 300
        except ValueError as error:  # not a subclass: that would be taken for a crash
            assert type(error) is ValueError
            assert "rows.parquet" in str(error)
            refused += 1
    assert refused
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as parquet"):
        read(tmp_path, "rows.parquet", whole[: len(whole) // 2])


# files and folders


def test_rows_in_are_rows_out_and_rejected() -> None:
    values = {"prompt": '["p"]', "response_a": '["a"]', "response_b": '["b"]'}
    winners = [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 0), (0, 0, 1)]
    rows = [
        RawRow(f"rows.csv:{line}", values | dict(zip(ARENA.columns[0][3:], row, strict=True)))
        for line, row in enumerate(winners, 2)
    ]
    broken = Rejected.of("rows.csv:7", "3 cells under 6 columns", ["a", "b", "c"])
    examples = Corpus.of(sources.Source("rows.csv", {"train": rows}, [broken]), DataConfig(), ARENA)
    assert len(examples.splits["train"]) == 3
    assert [row.where for row in examples.rejected] == ["rows.csv:7", "rows.csv:4", "rows.csv:5"]
    assert examples.num_read == 6 == 3 + len(examples.rejected)


def test_a_row_without_a_column_is_set_aside_by_name() -> None:
    rows = [RawRow("rows.jsonl:1", {"prompt": '["p"]', "winner_model_a": 1, "winner_model_b": 0})]
    examples = Corpus.of(sources.Source("rows.jsonl", {"train": rows}), DataConfig(), ARENA)
    assert examples.splits["train"] == []
    assert [row.reason for row in examples.rejected] == ["the column winner_tie is missing"]


def test_a_missing_column_is_named_beside_those_there_are(tmp_path: Path) -> None:
    read(tmp_path, "rows.csv", b"text,lable\n1,2\n")
    with pytest.raises(
        ValueError, match="lacks the column label; it has lable, text; needed are text, label"
    ):
        load(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_columns_may_have_other_names(name: str, tmp_path: Path) -> None:
    """Also when two trade places, and when a file has another column of that name."""
    content = (
        b"q,label,text\none,x,old\n" if name == "rows.csv" else b'{"q": "one", "label": "x", "text": "old"}\n'
    )
    read(tmp_path, name, content)
    config = DataConfig(data=str(tmp_path / name), columns="text=q, label = text")
    (row,) = sources.load(config, dataclasses.replace(PAIR, label_columns=("label",))).splits["train"]
    assert row.values == {"text": "one", "label": "old"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("text=nowhere", "--columns names nowhere, which .* lacks; it has label, text"),
        ("text", "'text' is no pair; type it like question=q,passage=text"),
        ("text=", "is no pair"),
        ("text=label,text=text", "text stands there twice"),
        ("label=text,x=label", "x is no column of this recipe"),
        ("txet=label", "txet is no column of this recipe; did you mean 'text'"),
    ],
)
def test_columns_that_cannot_be_are_refused(columns: str, words: str, tmp_path: Path) -> None:
    read(tmp_path, "rows.csv", b"text,label\n1,2\n")
    with pytest.raises(ValueError, match=words):
        sources.load(
            DataConfig(data=str(tmp_path / "rows.csv"), columns=columns),
            dataclasses.replace(PAIR, label_columns=("label",)),
        )
    with pytest.raises(ValueError, match="the sample has the recipe's names"):
        sources.load(
            DataConfig(data="sample", columns="text=label"),
            dataclasses.replace(PAIR, label_columns=("label",)),
        )


def test_a_column_that_is_called_nearly_as_one_that_is_read_is_not_passed_over(tmp_path: Path) -> None:
    read(tmp_path, "rows.csv", b"text,label, Hint\n1,2,3\n")
    recipe = dataclasses.replace(PAIR, optional=("hint",))
    with pytest.raises(ValueError, match="column ' Hint', which is not read; if hint is meant, add"):
        sources.load(DataConfig(data=str(tmp_path / "rows.csv")), recipe)
    named = DataConfig(data=str(tmp_path / "rows.csv"), columns="hint= Hint")
    (row,) = sources.load(named, recipe).splits["train"]
    assert row.values["hint"] == "3"


def test_what_is_called_as_a_split_is_read_or_named(tmp_path: Path) -> None:
    for name in ("TRAIN.jsonl", "Test.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "label": 1}\n')
    for name in ("test.jsonl.gz", "validation-00000-of-00001.jsonl", "trainers.txt"):
        (tmp_path / name).write_bytes(b"")
    source = load(tmp_path)
    assert set(source.splits) == {"train", "test"}
    assert source.notes == [
        "WARNING: not read, though called as a split is: test.jsonl.gz, validation-00000-of-00001.jsonl"
    ]


def test_numbers_with_gaps_stand_for_their_classes_too() -> None:
    """A column of ints with a gap becomes one of floats; what is no whole number is left alone."""
    classes = {"label": ["yes", "no"]}
    values = [1.0, Decimal("0"), -1.0, 0.5, float("nan")]
    found = [readers.named_classes({"label": value}, classes)["label"] for value in values]
    assert found[:4] == ["no", "yes", None, 0.5]


@pytest.mark.parametrize(
    "metadata",
    [
        '{"info": null}',
        '{"info": {"features": []}}',
        "[]",
        "{half",
        '{"info": {"features": {"a": {"_type": "ClassLabel", "names": null}}}}',
    ],
)
def test_metadata_of_another_shape_names_no_classes(metadata: str) -> None:
    assert readers._classes_of({b"huggingface": metadata.encode()}) == {}


def test_an_answer_that_is_not_there_yet_needs_no_column(tmp_path: Path) -> None:
    read(tmp_path, "rows.csv", b"q\none\n")
    config = DataConfig(data=str(tmp_path / "rows.csv"), columns="text=q,label=l")
    (row,) = sources.load(
        config, dataclasses.replace(PAIR, label_columns=("label",)), with_label=False
    ).splits["train"]
    assert row.values == {"text": "one"}


def test_a_folder_has_one_file_a_split_and_others_are_ignored(tmp_path: Path) -> None:
    read(tmp_path, "train.csv", b"text,label\n1,2\n")
    read(tmp_path, "validation.jsonl", b'{"text": 3, "label": 4}\n{"text": 5}\n')
    for name in ("notes.txt", "train.csv.bak", "all.csv"):
        (tmp_path / name).write_bytes(b"anything")
    found = load(tmp_path)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 1, "validation": 2}
    assert found.files == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("train.csv", "validation.jsonl")
    }


def test_two_files_for_one_split_are_both_named(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "test.parquet"):
        (tmp_path / name).write_bytes(b"text,label\n1,2\n")
    with pytest.raises(ValueError, match=r"two files for the split test: test\.csv and test\.parquet"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["val.jsonl", "valid.jsonl", "dev.jsonl", "validation.JSONL"])
def test_a_validation_file_is_one_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.CSV").write_bytes(b"text,label\n1,2\n")
    (tmp_path / name).write_bytes(b'{"text": 3, "label": 4}\n{"text": 5}\n')
    found = load(tmp_path)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 1, "validation": 2}
    (tmp_path / "validation.csv").write_bytes(b"text,label\n1,2\n")
    with pytest.raises(ValueError, match="two files for the split validation"):
        load(tmp_path)


def test_a_file_behind_a_link_is_what_the_link_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache keeps its files by their hash, and links with the names."""
    (tmp_path / "d0d0").write_bytes(b"text,label\n1,2\n")
    (tmp_path / "rows.csv").symlink_to("d0d0")
    monkeypatch.chdir(tmp_path)
    config = parse(ARENA.config, ["--data", "rows.csv"], "test")
    assert config.data.data == str(tmp_path / "rows.csv")
    assert len(load(Path(config.data.data)).splits["train"]) == 1


def test_a_folder_without_train_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no train.csv.*it holds: nothing"):
        load(tmp_path)
    read(tmp_path, "rows.csv", b"text,label\n1,2\n")
    with pytest.raises(ValueError, match=r"no train\.csv.*it holds: rows\.csv"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"text,label\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"rows\.csv holds no rows"):
        read(tmp_path, "rows.csv", content)


def test_a_path_that_is_no_data_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"rows\.xlsx is no data file; use one of \.csv, \.jsonl, \.parquet"):
        load(tmp_path / "rows.xlsx")
    with pytest.raises(ValueError, match=r"missing\.csv cannot be read: No such file"):
        load(tmp_path / "missing.csv")
    for path in (tmp_path / "missing", "no/such/folder", "./missing"):
        with pytest.raises(
            ValueError, match="does not exist; --data takes a file, a folder, a hub id or sample"
        ):
            load(path)


def test_sample_rows_are_as_many_as_asked_for() -> None:
    found = sources.load(DataConfig(data="sample", sample_rows=7), ARENA)
    assert [row.where for row in found.splits["train"]] == [f"sample row {number}" for number in range(7)]


# the hub


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_id_without_a_network_says_at_once_what_to_type(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:9", offline)  # nobody listens there
    began_s = time.perf_counter()
    with pytest.raises(ValueError, match="the hub cannot be reached.*give a .csv.*or --data sample"):
        load("some/rows")
    assert time.perf_counter() - began_s < 10


@pytest.mark.parametrize("name", ["two words", "a--b"])
def test_a_word_that_is_no_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is neither a file here nor a hub id"):
        load(name)


# real rows


@pytest.mark.skipif(not LMSYS.is_dir(), reason="needs the real rows of ../shared/data/lmsys")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_csv_and_jsonl_of_the_real_rows_give_the_same_examples(split: str) -> None:
    found = {}
    for suffix in ("csv", "jsonl"):
        rows, rejected = readers.read_file(LMSYS / f"{split}.{suffix}")
        found[suffix] = Corpus.of(sources.Source(suffix, {"train": rows}, rejected), DataConfig(), ARENA)
        assert found[suffix].rejected == []
    assert found["csv"].splits == found["jsonl"].splits
    # one row a line of the jsonl file
    assert found["csv"].num_read == len((LMSYS / f"{split}.jsonl").read_bytes().splitlines())
