"""Which of our files can change a number, and a fingerprint of them: a run that goes on by other code would
mean something else before and after its stop. An edit of anything else stops nobody."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Modules, and packages with all that is in them, that are imported where numbers are made and change none.
LEFT_OUT = {
    "lib.base.console": "prints",
    "lib.bench": "measures time",
    "lib.export": "copies a finished run, and checks the copy",
    "lib.models.flops": "counts what a step takes",
    "lib.process.peak": "measures what a device can do",
    "lib.reports": "draws and compares what was scored already",
    "lib.sweep": "chooses configurations; a run is decided by its own",
    "lib.tracking": "prints and records, and copies a checkpoint that is written already",
}
SILENT = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
)


def fingerprint(roots: Sequence[str], root: Path = ROOT) -> str:
    """sha256 over the modules `roots` and all that they import, directly or not, at any place."""
    code = hashlib.sha256()
    for module, path in sorted(reached(roots, root).items()):
        code.update("\0".join([module, *lines_that_count(path), ""]).encode())
    return code.hexdigest()


def reached(roots: Sequence[str], root: Path = ROOT) -> dict[str, Path]:
    """module -> file"""
    for module in roots:
        assert file_of(module, root), f"there is no module {module}"
    modules: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = file_of(module, root)
        if path and module not in modules and not is_left_out(module):
            modules[module] = path
            waiting += [module.rpartition(".")[0], *imports(path)]  # a package runs before what is in it
    return modules


def file_of(module: str, root: Path = ROOT) -> Path | None:
    """None for a function, say, and for the modules of others."""
    place = root.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if module.startswith("lib") and file.is_file()), None)


def is_left_out(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in LEFT_OUT)


def imports(path: Path) -> Iterator[str]:
    """Whatever may be a module, also inside functions; `from lib.a import b` may mean the module lib.a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def lines_that_count(path: Path) -> list[str]:
    """Blank lines and those of a comment alone do not; inside a text they do."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spans = [(token.start[0], token.end[0]) for token in tokens if token.type not in SILENT]
    numbers = {number for first, last in spans for number in range(first, last + 1)}
    lines = text.split("\n")
    return [lines[number - 1] for number in sorted(numbers)]
