"""One ordinary run, in this process or in workers it starts: for the command itself, for seeds and sweeps."""

from collections.abc import Callable
from pathlib import Path

from lib import recipe, run
from lib.base import exits
from lib.command_line import words
from lib.config import Config
from lib.launching.workers import launch
from lib.process import dist
from lib.process.signals import StopFlag
from lib.runs import resume
from lib.runs.folder import RunFolder

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
Once = Callable[[Config], int]


def command(config: Config) -> list[str]:
    """What to type to train this configuration."""
    return [TRAIN.name, config.recipe, *words(config, recipe.load(config.recipe).config)]


def once(config: Config, stop: StopFlag | None = None) -> int:
    """Train on the devices that the configuration asks for; the exit code. One of a series has its `stop`,
    and in run.json the command of this run, not of the series."""
    devices = config.compute.devices or dist.num_devices()
    if devices == 1:
        of_series = None if stop is None else command(config)
        return exits.run(lambda: run.train(config, stop, of_series))
    code = launch(TRAIN, command(config)[1:], devices)
    if stop is not None:
        stop.listen()
    return code


def done_or_trained(config: Config, once: Once) -> tuple[int, RunFolder | None]:
    """One run of a series, trained unless it was finished before: its exit code and, when that is 0, its
    folder."""
    if config.tracking.resume != "never" and (folder := resume.finished(config)):
        return exits.DONE, folder
    code = once(config)
    folder = resume.finished(config) if code == exits.DONE else None
    return (code, folder) if folder or code else (exits.CRASHED, None)
