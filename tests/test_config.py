"""The configuration tree and the command line made from it: flags, typos, nonsense, smoke, and no torch."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib import command_line, config_keys, other_flags
from lib import config_tree as configs
from lib import recipe as recipes
from lib.config import ChooseConfig, Config, PairConfig, TaskConfig

ROOT = Path(__file__).resolve().parents[1]
TREE = Config(task=PairConfig())
KINDS = (TaskConfig, PairConfig, ChooseConfig)

# A flag, a value it refuses, and what the refusal has to say.
NONSENSE = [
    ("--sample-rows", 0, "above 0"),
    ("--max-rows", -1, "above 0"),
    ("--max-length", 0, "above 0"),
    ("--batch", 0, "above 0"),
    ("--epochs", math.nan, "above 0"),
    ("--max-steps", 0, "above 0"),
    ("--lr", math.inf, "above 0"),
    ("--clip", 0.0, "above 0"),
    ("--token-budget", -8, "above 0"),
    ("--min-micro-batches", 0, "above 0"),
    ("--eval-every", 0, "above 0"),
    ("--devices", 0, "above 0"),
    ("--threads", 0, "from 1 to 1024"),
    ("--threads", 1025, "from 1 to 1024"),
    ("--log-every", 0, "above 0"),
    ("--save-every", 0, "above 0"),
    ("--save-minutes", 0.0, "above 0"),
    ("--keep", 0, "above 0"),
    ("--stop-at", 0, "above 0"),
    ("--seeds", 0, "above 0"),
    ("--price", 0.0, "above 0"),
    ("--max-cost", -1.0, "above 0"),
    ("--failure-hours", 0.0, "above 0"),
    ("--notice", -1.0, r"0 \(no warning\) or more"),
    ("--max-rejected", 1.0, "at least 0 and below 1"),
    ("--warmup", 1.5, "at least 0 and below 1"),
    ("--dropout", 1.0, "at least 0 and below 1"),
    ("--attention-dropout", -0.1, "at least 0 and below 1"),
    ("--weight-decay", -1.0, "0 or more"),
    ("--seed", -1, "from 0 to"),
    ("--seed", 2**32, "from 0 to"),
    ("--name", "a/b", "use a word"),
    ("--name", ".hidden", "use a word"),
    ("--name", "", "use a word"),
]
# Several programs in one process that then says what it has imported: (script, its words).
PROGRAMS = """
import contextlib, io, json, runpy, sys
found = []
for script, argv in json.loads(sys.argv[1]):
    sys.argv = [script, *argv]
    code, said = 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(f"scripts/{script}", run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    found.append([code, said.getvalue()])
from lib import command_line, recipe
command_line.parse(recipe.load("arena").config, ["--batch", "8", "--smoke"], "train.py")
print(json.dumps([found, [name for name in ("torch", "transformers", "datasets") if name in sys.modules]]))
"""


def parse(line: str) -> Config:
    return command_line.parse(TREE, line.split(), "train.py")


def parts(config: Config) -> dict[str, Any]:
    return {name: part for name, part in vars(config).items() if dataclasses.is_dataclass(part)}


def with_value(flag: str, value: object, tree: Config = TREE) -> Config:
    """The tree with the field behind `flag` changed."""
    word = flag.removeprefix("--").replace("-", "_")
    (key,) = (key for key in config_keys.leaves(tree) if key.rpartition(".")[2] == word)
    return config_keys.with_values(tree, {key: value})


@pytest.mark.parametrize("flag", ["--max-length", "--max_length"])
def test_dashes_and_underscores_reach_the_same_field(flag: str) -> None:
    assert parse(f"{flag} 77").data.max_length == 77
    assert parse(f"{flag}=78").data.max_length == 78


@pytest.mark.parametrize("flag", ["--resume", "--resume-timestamp", "--resume_timestamp"])
def test_resume_has_the_name_the_notes_used(flag: str) -> None:
    assert parse(f"{flag} 20231215_120000").tracking.resume == "20231215_120000"


def test_flags_reach_every_part_of_the_tree_and_touch_nothing_else() -> None:
    found = parse("--no-prompt --model tiny --lr 1e-3 --clip None --devices 2 --keep 5")
    assert config_keys.leaves(found) == config_keys.leaves(TREE) | {
        "task.prompt": False,
        "model.model": "tiny",
        "optim.lr": 1e-3,
        "optim.clip": None,
        "compute.devices": 2,
        "tracking.keep": 5,
    }


def test_no_two_parts_use_the_same_flat_flag() -> None:
    # Flags are flat words over a nested tree: a word in two parts would set only one of them.
    for kind in KINDS:
        tree = Config(task=kind())
        words = [field.name for part in parts(tree).values() for field in dataclasses.fields(part)]
        assert len(parts(tree)) == 8
        assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("boolq", ["--no-swap"]),
        ("boolq", ["--no-prompt"]),
        ("boolq", ["--index", "wiki.index"]),
        ("arena", ["--option-score", "sum"]),
        ("arena", ["--context", "ready"]),
        ("science_exam", ["--no-swap"]),
    ],
)
def test_an_option_that_the_task_does_not_read_is_refused(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.parse(recipes.load(name).config, words, f"train.py {name}")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert words[0] in said.out + said.err and f"train.py {name}" in said.out + said.err


def test_a_tree_from_before_tasks_had_options_of_their_own_is_read() -> None:
    asked = command_line.parse(recipes.load("science_exam").config, ["--option-score", "sum"], "train.py")
    old = json.loads(json.dumps(configs.to_dict(asked)))
    old["data"] |= old.pop("task") | {"swap": False}  # all of them stood there, whatever the recipe
    assert configs.from_dict(old, ChooseConfig) == asked
    pair = configs.from_dict(old, PairConfig)
    assert pair == dataclasses.replace(asked, task=PairConfig(prompt=True, swap=False))


@pytest.mark.parametrize(
    ("typo", "meant"), [("--bacth", "--batch"), ("--epoch", "--epochs"), ("--max-lenght", "--max-length")]
)
def test_a_misspelt_flag_ends_with_2_and_names_the_nearest(
    typo: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"{typo} 3")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert re.search(rf"{meant}\b", said.out + said.err)


@pytest.mark.parametrize("line", ["--batch many", "--strategy zero9", "--precision fp16", "--batch 2.5"])
def test_a_value_of_another_kind_ends_with_2_and_names_its_flag(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(line)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert line.split()[0] in said.out + said.err


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'arnea'.*did you mean 'arena'"):
        recipes.load("arnea")
    with pytest.raises(ValueError, match="there is: .*arena"):
        recipes.load("xyz")


def test_the_first_word_names_the_recipe_and_arena_is_the_default() -> None:
    assert command_line.split_recipe(["boolq", "--batch", "3"]) == ("boolq", ["--batch", "3"])
    assert command_line.split_recipe(["--batch", "3"]) == ("arena", ["--batch", "3"])
    assert command_line.split_recipe([]) == ("arena", [])


@pytest.mark.parametrize(("flag", "value", "words"), NONSENSE)
def test_a_value_that_makes_no_sense_is_refused_with_its_flag(flag: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{flag} (is|[0-9]).*{words}"):
        command_line.validate(with_value(flag, value))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--warmup", 0.0),
        ("--max-rejected", 0.0),
        ("--max-rejected", 0.999),
        ("--dropout", 0.0),
        ("--weight-decay", 0.0),
        ("--seed", 0),
        ("--seed", 2**32 - 1),
        ("--batch", 1),
        ("--name", "a.b"),
    ],
)
def test_a_value_at_the_edge_of_sense_is_taken(flag: str, value: object) -> None:
    config = with_value(flag, value)
    assert command_line.validate(config) is config


def test_every_number_of_the_tree_refuses_minus_1() -> None:
    # It makes sense for none of them, so a field added without a check is found here.
    for tree in (TREE, Config(task=ChooseConfig())):
        for field in (field for part in parts(tree).values() for field in dataclasses.fields(part)):
            if re.search(r"^[^\[]*\b(int|float)\b", str(field.type)):  # not what a list or a table holds
                flag = "--" + field.name.replace("_", "-")
                with pytest.raises(ValueError, match=flag):
                    command_line.validate(with_value(flag, -1, tree))


def test_all_contradictions_are_said_at_once() -> None:
    with pytest.raises(ValueError) as refused:
        parse("--batch 2 --devices 4 --lr 0 --init random --freeze bottom --keep -1")
    said = str(refused.value).splitlines()
    assert len(said) == 4
    for words in ("--lr is 0", "--keep is -1", "--batch 2 is smaller than 4 ranks", "--freeze bottom"):
        assert any(words in line for line in said), words


@pytest.mark.parametrize(("batch", "refused"), [(3, True), (4, False), (5, False)])
def test_a_batch_smaller_than_the_ranks_is_refused(batch: int, refused: bool) -> None:
    line = f"--batch {batch} --devices 4"
    if refused:
        with pytest.raises(ValueError, match="use at least 4"):
            parse(line)
    else:
        assert parse(line).optim.batch == batch


def test_smoke_is_pure_and_can_be_repeated() -> None:
    before = configs.to_dict(TREE)
    toy = command_line.smoke(TREE)
    assert configs.to_dict(TREE) == before
    assert command_line.smoke(TREE) == toy == command_line.smoke(toy)
    assert (toy.smoke, toy.model.model, toy.data.data) == (True, "tiny", "sample")
    assert command_line.validate(toy) is toy


def test_smoke_keeps_what_it_has_no_reason_to_change() -> None:
    toy = parse("--smoke --devices 3 --seed 7 --max-length 40 --runs-dir there --no-prompt")
    assert (toy.compute.devices, toy.optim.seed, toy.data.max_length) == (3, 7, 40)
    assert (toy.tracking.runs_dir, toy.task.prompt, toy.model.model) == ("there", False, "tiny")


def test_the_experiment_leaves_out_compute_tracking_and_limits() -> None:
    found = configs.experiment(TREE)
    assert set(found) == {"recipe", "data", "task", "model", "adapter", "optim", "smoke"}
    hardware = parse("--devices 2 --threads 3 --gradient-checkpointing --runs-dir x --keep 9 --name y")
    assert configs.experiment(hardware) == found
    hardware = parse("--price 0.44 --max-cost 8 --deadline 8h --notice 5 --failure-hours 24")
    assert configs.experiment(hardware) == found
    assert configs.experiment(with_value("--token-budget", 4096)) != found  # it decides the dropout draws
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", recipes.names())
def test_a_configuration_survives_json_unchanged(name: str) -> None:
    asked = command_line.parse(
        recipes.load(name).config, ["--clip=None", "--name=a", "--lr=3e-5"], "train.py"
    )
    for config in (asked, command_line.smoke(asked)):
        assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config))), type(config.task)) == config


@pytest.mark.parametrize(
    "tree",
    [
        {"optim": {"learning_rate": 1}},
        {"optimizer": {}},
        {"data": {"data": "sample", "rows": 3}},
        {"data": 3},
    ],
)
def test_a_configuration_of_another_version_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="another version"):
        configs.from_dict(tree, TaskConfig)


def test_local_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("rows", "model", "sample", "tiny"):  # two of them happen to have a reserved name
        (tmp_path / folder).mkdir()
    found = parse("--data rows --model model")
    assert (found.data.data, found.model.model) == (str(tmp_path / "rows"), str(tmp_path / "model"))
    found = parse("--data sample --model tiny")
    assert (found.data.data, found.model.model) == ("sample", "tiny")
    found = parse("--data org/rows --model org/model")
    assert (found.data.data, found.model.model) == ("org/rows", "org/model")


def test_help_typos_and_nonsense_are_answered_without_importing_torch() -> None:
    # torch takes 1.5 s to import and a modelling file 5 s; --help has to answer in less than one.
    scripts = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))
    asked = [(script, ["--help"], 0, "usage") for script in scripts]
    asked += [
        ("train.py", ["arnea"], 2, "did you mean 'arena'"),
        ("train.py", ["arena", "--batch", "0"], 2, "--batch is 0"),
        ("train.py", ["--bacth", "3"], 2, "--batch"),
    ]
    programs = json.dumps([(script, argv) for script, argv, _, _ in asked])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS, programs], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers, imported = json.loads(done.stdout)
    for (script, argv, code, words), (ended, said) in zip(asked, answers, strict=True):
        assert (ended, words in said) == (code, True), f"{script} {argv}: {said}"
    assert imported == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--lr 0.00012345678901234567 --compile --clip None --max-steps 7 --devices 2",
        "--lora-rank 8 --lora-targets query key --lora-layers 0 1 --lora-rank-pattern query 4 --lora-rslora",
        "--smoke --lr 0.02 --seed 3 --max-length 40 --name a-b --runs-dir there",
        "--smoke --no-prompt",
    ],
)
@pytest.mark.parametrize("name", recipes.names())
def test_words_are_the_inverse_of_the_command_line(line: str, name: str) -> None:
    if name not in ("arena", "science_exam") and "prompt" in line:
        line = "--smoke"
    own = recipes.load(name).config
    flags = line.split()
    config = command_line.parse(own, flags, "test")
    words = command_line.words(config, own)
    assert command_line.parse(own, words, "test") == config
    assert len(words) <= len(flags) + 2  # --devices 1, which smoke fixes


def test_help_lists_the_recipes_and_their_columns() -> None:
    words = recipes.described("Train.", ["--help"]) or ""
    assert all(f"\n    {name} " in words for name in recipes.names())
    assert "question, passage, answer" in words and "question_stem, choices, answerKey" in words
    assert max(map(len, words.splitlines())) <= 79
    assert recipes.described("Train.", ["--lr", "1"]) == "Train."


def test_flags_of_other_tools_are_answered_by_ours() -> None:
    words = ["--learning-rate", "1e-3", "--per_device_train_batch_size=8", "--load_in_4bit", "--lr", "1e-4"]
    with pytest.raises(ValueError) as refused:
        command_line.parse(Config(recipe="arena"), words, "test")
    assert str(refused.value).splitlines() == [
        "--learning-rate: here it is --lr",
        "--per_device_train_batch_size: here it is --batch (rows per optimizer step, over all devices)",
        "--load_in_4bit: here it is --quantize nf4",
    ]


def test_no_flag_of_ours_is_taken_for_one_of_others_and_those_named_exist() -> None:
    ours = {key.rpartition(".")[2].replace("_", "-") for key in config_keys.leaves(Config(recipe="arena"))}
    assert not ours & other_flags.NAMES.keys()
    named = {re.match(r"--([a-z-]+)", text)[1] for text in other_flags.NAMES.values()}  # type: ignore[index]
    assert named <= ours
