"""House rules that a program can check: imports go down, few places ask for ranks, files are short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("lib", "scripts") for path in (ROOT / folder).rglob("*.py"))

# From top to bottom; a module belongs to its longest prefix and imports from its own layer or one below.
LAYERS = (
    ("scripts",),
    ("lib.bench", "lib.doctor"),
    ("lib.sweep",),
    ("lib.launching.seeds",),
    ("lib.launching.start",),
    ("lib.run", "lib.export", "lib.launching"),
    ("lib.evaluation",),
    ("lib.evaluation.trained", "lib.runs.prepare", "lib.runs.of_model"),
    ("lib.runs.reading", "lib.evaluation.predictor"),
    ("lib.tasks",),
    ("lib.training.loop", "lib.training.votes"),
    ("lib.job",),
    ("lib.tracking", "lib.reports"),
    ("lib.runs",),
    ("lib.corpus",),
    ("lib.training",),
    ("lib.task",),
    ("lib.retrieval",),
    ("lib.models",),
    ("lib.recipes",),
    ("lib.data", "lib.corpus.sources", "lib.corpus.splits", "lib.corpus.doubles"),
    ("lib.corpus.columns",),
    ("lib.corpus.readers",),
    ("lib.answers",),
    ("lib.reports.page",),
    ("lib.recipe",),
    ("lib.process",),
    ("lib.command_line",),
    ("lib.contradictions",),
    ("lib.combinations", "lib.deepspeed_config"),
    ("lib.other_flags",),
    ("lib.config", "lib.config_keys", "lib.config_tree"),
    ("lib.base",),
)
RECIPES_MAY_IMPORT = ("lib.recipe", "lib.config", "lib.data")
RECIPES_MAY_IMPORT += ("lib.answers.metrics", "lib.answers.text_metrics", "lib.answers.citing")
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
)
DIST = [ROOT / "lib" / name for name in ("base/ranks.py", "process/dist.py", "process/world.py")]
# Who speaks, writes or goes last asks whether it is rank 0; to all others every rank is the same.
ASKING = {
    "scripts.train",
    "lib.doctor.network",
    "lib.bench.arms",
    "lib.run",
    "lib.job",
    "lib.tracking.tracker",
    "lib.evaluation.predictor",
}
ASKING |= {"lib.evaluation.scoring", "lib.training.ddp", "lib.training.zero", "lib.training.loop"}
NO_RANKS = ("lora_rank", "whole_on_each_rank")  # a matrix's; what holds for all of them
ENGINE_VERBS = (
    "fit",
    "start",
    "forward",
    "backward",
    "norm",
    "step",
    "whole",
    "snapshot",
)  # all ranks call them
# All of these would unpickle, or run code that came with a model or a data set.
UNSAFE = r"\bimport pickle|\bpickle\.\w|torch\.(load|save)\(|allow_pickle=True|_object(_list)?\("
UNSAFE += "|trust_remote_code=True"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions; of this project by its own name."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path, node)}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def inner_imports(path: Path) -> set[str]:
    """Imports of this project, empty packages left out."""
    return {name for name in imported(path) if name in MODULES and MODULES[name].read_text().strip()}


def layer(module: str) -> int:
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if f"{module}.".startswith(f"{prefix}.")
    ]
    assert fits, f"{module} has no place in LAYERS"
    return max(fits)[1]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_imports_go_down() -> None:
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in inner_imports(path)
        if path.read_text().strip() and layer(other) < layer(name)
    ]
    assert not upward, upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    clear: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        for other in inner_imports(MODULES[module]) - clear:
            visit(other, (*above, module))
        clear.add(module)

    for module in MODULES:
        visit(module, ())


def test_a_recipe_imports_words_and_lists_only() -> None:
    for path in (ROOT / "lib" / "recipes").glob("*.py"):
        for name in imported(path):
            inside = name.startswith(RECIPES_MAY_IMPORT)
            assert inside if name in MODULES else not name.startswith(("torch", "transformers")), (
                f"{path}: {name}"
            )


def test_nobody_imports_a_recipe_a_task_or_a_kind_of_answer_by_name() -> None:
    # all are found by their names in strings, so that one more of any is one new file
    for name, path in MODULES.items():
        if name.startswith(
            ("lib.tasks", "lib.bench")
        ):  # the benchmark measures one recipe against others' code
            continue
        kinds = ("lib.recipes.", "lib.tasks.", "lib.answers.")
        tools = (
            "lib.answers.metrics",
            "lib.answers.intervals",
            "lib.answers.hits",
            "lib.answers.calibration",
            "lib.answers.text_metrics",
            "lib.answers.citing",
            "lib.answers.twins",
            "lib.answers.agreement",
        )
        if name == "lib.answers.cited":  # a text, and more
            tools += ("lib.answers.text",)
        named = [other for other in inner_imports(path) if other.startswith(kinds) and other not in tools]
        assert not named, f"{name} imports {named}"


INSIDE_A_CHOICE = r"""[\[(]['"](label|prediction|probabilities|swapped|ranking|confusion)['"]"""
KNOW_A_CHOICE = ("lib.answers.choice", "lib.tasks", "lib.recipes", "lib.answers.metrics", "lib.bench")


def test_only_its_kind_and_its_task_look_into_an_answer() -> None:
    # so that another kind of answer is one new file
    looking = [
        f"{path.relative_to(ROOT)}: {key}"
        for path in sorted(path for ending in ("py", "jinja") for path in (ROOT / "lib").rglob(f"*.{ending}"))
        for key in re.findall(INSIDE_A_CHOICE, path.read_text())
        if not name_of(path).startswith(KNOW_A_CHOICE)
    ]
    assert not looking, looking


def test_ranks_are_read_from_the_environment_in_dist_only() -> None:
    found = [
        where(path, node)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and node.value in RANK_VARIABLES and path not in DIST
    ]
    assert not found, found


def asks_for_main(node: ast.AST) -> bool:
    """`is_main` or `env_is_main`, wherever it stands below this."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Attribute | ast.Name)]
    return any(word_of(part) in ("is_main", "env_is_main") for part in parts)


def compares_ranks(node: ast.AST) -> bool:
    """`get_rank`, or a rank that is compared or asked whether it is 0 (`if rank:`, `not rank`)."""
    for part in ast.walk(node):
        if word_of(part) == "get_rank":
            return True
        questions: list[ast.expr] = []
        if isinstance(part, ast.Compare):
            questions = [part.left, *part.comparators]
        elif isinstance(part, ast.If | ast.IfExp | ast.While | ast.Assert):
            questions = [part.test]
        elif isinstance(part, ast.BoolOp):
            questions = part.values
        elif isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not):
            questions = [part.operand]
        words = [word_of(question) for question in questions]
        if any(word.endswith("rank") and word not in NO_RANKS for word in words):
            return True
    return False


def word_of(node: ast.AST) -> str:
    """The last word of a name: rank, world.rank, parts.world.rank"""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def asks_for_rank(node: ast.AST) -> bool:
    return asks_for_main(node) or compares_ranks(node)


@cache
def aliases(path: Path) -> dict[str, str]:
    """What a module's words mean: {"dist": "lib.process.dist", "barrier": "lib.process.dist.barrier"}"""
    found = {function.name: f"{name_of(path)}.{function.name}" for function in functions(path)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {part.asname or part.name: f"{node.module}.{part.name}" for part in node.names}
        elif isinstance(node, ast.Import):
            found |= {part.asname: part.name for part in node.names if part.asname}
    return found


def called(path: Path, nodes: list[ast.stmt] | list[ast.expr]) -> set[str]:
    """What is called, by its full name where it is a function ("lib.process.dist.barrier"), as it is written
    where it belongs to an object ("parts.evaluate")."""
    known, found = aliases(path), set()
    for part in (part for node in nodes for part in ast.walk(node)):
        if isinstance(part, ast.Call):
            first, dot, rest = ast.unparse(part.func).partition(".")
            found.add(known.get(first, first) + dot + rest)
    return found


def collectives() -> set[str]:
    """The functions in which ranks wait for each other: those of dist, and whoever calls one."""
    # the others are verbs of objects, as they are written where they are called
    found = {"torch.distributed.all_gather", "parts.evaluate", "self.stream", "predictor.predict"}
    found |= {f"{name}.{verb}" for name in ("engine", "parts.engine") for verb in ENGINE_VERBS}
    calls = [
        (f"{name}.{function.name}", called(path, function.body))
        for name, path in MODULES.items()
        for function in functions(path)
    ]
    while True:
        more = {name for name, inside in calls if found & inside}
        if more <= found:
            return found
        found |= more


def alone(body: list[ast.stmt]) -> list[list[ast.stmt] | list[ast.expr]]:
    """What only some ranks run: the branches of a question for the rank, what follows one that returns."""
    found: list[list[ast.stmt] | list[ast.expr]] = []
    for place, statement in enumerate(body):
        for part in ast.walk(statement):
            if isinstance(part, ast.If) and asks_for_rank(part.test):
                found += [part.body, part.orelse]
            elif isinstance(part, ast.IfExp) and asks_for_rank(part.test):
                found += [[part.body], [part.orelse]]
        if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Return):
            found += [body[place + 1 :]] if asks_for_rank(statement.test) else []
    return found


def test_no_rank_waits_for_others_inside_a_question_for_its_rank() -> None:
    waiting = collectives()
    known = {f"lib.process.dist.{name}" for name in ("gather_floats", "gather_json", "on_main", "barrier")}
    known |= {"lib.evaluation.predictor.predict", "lib.evaluation.scoring.score", "lib.run._finish"}
    known |= {"lib.training.loop.snapshot", "lib.training.loop.save", "lib.run._fit"}
    assert known | {"lib.training.votes.agree", "lib.training.loop.settle"} <= waiting
    for path in FILES:
        if path in DIST:  # on_main itself
            continue
        for function in functions(path):
            for branch in alone(function.body):
                inside = waiting & called(path, branch)
                assert not inside, f"{where(path, function)} {inside}"


def test_ranks_are_compared_in_dist_only_and_few_ask_whether_they_are_rank_0() -> None:
    # a test above sees that nobody waits inside that question
    comparing = [name for name, path in MODULES.items() if path not in DIST and compares_ranks(tree(path))]
    assert not comparing, comparing
    assert {name for name, path in MODULES.items() if asks_for_main(tree(path))} == ASKING


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= (70 if path.parent.name == "scripts" else 300)
    for function in functions(path):
        assert (function.end_lineno or 0) - function.lineno < 60, where(path, function)


def test_nothing_unpickles_or_runs_the_code_of_others() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(UNSAFE, line)
    ]
    assert not found, found
