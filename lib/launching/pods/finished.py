"""Prints the run in which the experiment of these flags of train.py is finished; nothing when it is not."""

import sys
from dataclasses import replace

from lib import recipe
from lib.base import exits
from lib.base.console import speak
from lib.command_line import parse, split_recipe
from lib.config import Config
from lib.runs.folder import RunFolder, parent


def finished(config: Config) -> RunFolder | None:
    """The run of the last of its seeds, when all of them are finished."""
    done = any(RunFolder(path).status().get("phase") == "done" for path in parent(config).glob("[!.]*"))
    if config.tracking.resume == "never" or not done:
        return None
    from lib.runs import resume  # imports torch, which takes seconds

    first, run = config.optim.seed, None
    for seed in range(first, first + config.tracking.seeds):
        tracking = replace(config.tracking, seeds=1)
        run = resume.finished(replace(config, optim=replace(config.optim, seed=seed), tracking=tracking))
        if run is None:
            return None
    return run


def main() -> None:
    name, argv = split_recipe(sys.argv[1:])
    if run := finished(parse(recipe.load(name).config, argv, f"train.py {name}")):
        speak(str(run.path))


if __name__ == "__main__":
    exits.leave(exits.run(main))
