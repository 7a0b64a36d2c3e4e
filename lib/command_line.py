"""Words on the command line -> a configuration that makes sense, or every contradiction at once.

Needs no torch, so `--help` answers at once.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from lib import other_flags
from lib.base import moments, ranks
from lib.base.marks import FlagCreatePairsOff as FlagCreatePairsOff  # for scripts
from lib.base.marks import Positional as Positional
from lib.base.marks import arg
from lib.config import ChooseConfig, CompleteConfig, Config
from lib.config_keys import leaves, with_values
from lib.contradictions import validate

T = TypeVar("T")
Run = Annotated[Positional[str], arg(metavar="RUN")]
Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN RUN ...")]
RecipeName = Annotated[Positional[str | None], arg(metavar="[RECIPE]")]
Passages = Annotated[Positional[str], arg(metavar="PASSAGES")]
Out = Annotated[Positional[Path], arg(metavar="OUT")]
RunOrNone = Annotated[Positional[str | None], arg(metavar="[RUN]")]
SheetOrNone = Annotated[Positional[Path | None], arg(metavar="[OUT.xlsx]")]
Unnamed = Annotated[T, arg(name="")]  # a part of a script's options whose flags are flat words


def _tyro() -> Any:
    """tyro itself. Raises ValueError on a machine that lacks it."""
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ValueError(
            f"flags cannot be read: {sys.executable} lacks {error.name}. Type: bash setup.sh && . "
            f".venv/bin/activate (or {sys.executable} -m pip install tyro==1.0.17), and this command again"
        ) from error
    return tyro


def options(kind: type[T], description: str | None) -> T:
    """The words of a script without a recipe, as this dataclass has them; exits 2 on typos. Such a script
    runs in one process: raises ValueError in one of several workers."""
    asked: T = _tyro().cli(kind, prog=Path(sys.argv[0]).name, description=description)
    ranks.refuse_several(Path(sys.argv[0]).name)
    return asked


def over(default: T, argv: list[str], program: str, description: str | None = None) -> T:
    """The words of a script with a recipe over that recipe's values; exits 2 on typos. Raises ValueError for
    flags of other tools."""
    other_flags.refuse(argv)
    read: T = _tyro().cli(type(default), default=default, args=argv, prog=program, description=description)
    return read


def parse(default: Config, argv: list[str], program: str, description: str | None = None) -> Config:
    """The command line over a recipe's values. Raises ValueError for values that make no sense; exits 2 on
    typos."""
    return settled(over(default, argv, program, description), default)


def settled(config: Config, default: Config) -> Config:
    """What was typed over `default`, ready to run: smoke, full paths, no contradictions."""
    if config.smoke:
        lr = config.optim.lr
        config = smoke(config)
        if lr != default.optim.lr:  # typed, by hand or by a sweep: it costs nothing and fetches nothing
            config = with_values(config, {"optim.lr": lr})
    return validate(with_moment(absolute_paths(with_prompt(config))))


def words(config: Config, default: Config) -> list[str]:
    """The inverse of `parse`: what to type behind the recipe's name to get this configuration."""
    own, typed = leaves(dataclasses.replace(smoke(default), smoke=False) if config.smoke else default), []
    for key, value in leaves(config).items():
        if value == own[key]:
            continue
        flag = "--" + key.rpartition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            typed += [flag if value else flag.replace("--", "--no-", 1)]
        elif isinstance(value, tuple):
            typed += [flag, *map(str, value)]
        elif isinstance(value, dict):
            typed += [flag, *(str(word) for pair in value.items() for word in pair)]
        else:
            typed += [flag, str(value)]
    return typed


def split_recipe(argv: list[str], default: str = "arena") -> tuple[str, list[str]]:
    """The first word, when it is no flag, names the recipe."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return default, argv


def absolute_paths(config: Config) -> Config:
    """Local data and models by their full path, so that a run can be read and resumed from any folder."""

    def full(name: str) -> str:
        # not resolve(): a link into a cache has the suffix, what it points to may have none
        return os.path.abspath(name) if Path(name).exists() else name

    data, model, task = config.data.data, config.model.model, config.task
    paths = {"data.data": data if data == "sample" else full(data)}
    paths |= {
        f"compute.{key}": os.path.abspath(path)
        for key in ("offload_dir", "deepspeed_config")
        if (path := getattr(config.compute, key)) is not None
    }
    paths |= {"model.model": model if model in ("minilm", "tiny") else full(model)}
    if isinstance(task, ChooseConfig) and task.index is not None:
        # also one that is not there: the message then says where it was looked for
        paths |= {"task.index": os.path.abspath(task.index)}
    return with_values(config, paths)


def prompt_in(file: Path) -> str:
    """The prompt that a file holds, without the line breaks at its end. Raises ValueError."""
    try:
        words = file.read_text("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompt-file {file} cannot be read: {error}") from error
    if not words.strip():
        raise ValueError(f"--prompt-file {file} is empty")
    return words


def with_prompt(config: Config) -> Config:
    """With the prompt that --prompt-file holds, as words of its own: the file may change or go."""
    task = config.task
    if not isinstance(task, CompleteConfig) or task.prompt_file is None:
        return config
    task = dataclasses.replace(task, template=prompt_in(Path(task.prompt_file)), prompt_file=None)
    return dataclasses.replace(config, task=task)


def with_moment(config: Config) -> Config:
    """With --deadline as a moment: a span from now would begin anew in each worker and each run of a
    series."""
    try:
        moment = config.limits.deadline and moments.written(moments.moment_s(config.limits.deadline))
    except ValueError:  # said together with all that makes no sense
        return config
    return with_values(config, {"limits.deadline": moment})


def smoke(config: Config) -> Config:
    """The same experiment as a toy that ends in seconds: tiny model, few sample rows, short texts, six
    steps."""
    replace = dataclasses.replace
    # a toy's tokens are bytes
    data = replace(config.data, data="sample", sample_rows=160, max_cut=1.0, columns=None)
    task = config.task
    if isinstance(task, ChooseConfig):  # the sample's rows have their contexts
        task = replace(task, index=None, context="auto")
    length = 96
    if isinstance(task, CompleteConfig):  # a prompt and the whole of a text
        task, length = replace(task, max_new_tokens=16, eval_generate=8), 384
    return replace(
        config,
        smoke=True,
        data=replace(data, max_length=min(data.max_length, length)),
        task=task,
        model=replace(config.model, model="tiny", init="random"),
        adapter=replace(config.adapter, quantize="none"),  # a toy made in memory has no weights to quantize
        optim=replace(config.optim, batch=16, max_steps=6, epochs=1, lr=1e-3, eval_every=3, precision="fp32"),
        compute=replace(config.compute, devices=config.compute.devices or 1),
        tracking=replace(config.tracking, log_every=1),
    )
