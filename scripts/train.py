"""Train a recipe: scripts/train.py [RECIPE] [flags]

Examples:
    # starts its own workers
    python scripts/train.py arena --data sample --devices 2
    # or under torchrun; the recipe defaults to arena
    torchrun --nproc_per_node=4 scripts/train.py
    # the whole path in seconds, on any laptop
    python scripts/train.py arena --smoke
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe
from lib.base import exits, ranks
from lib.base.console import speak
from lib.command_line import parse, split_recipe


def main() -> int:
    """Parse first, so that --help and typos need no torch."""
    name, argv = split_recipe(sys.argv[1:])
    config = parse(recipe.load(name).config, argv, f"train.py {name}", recipe.described(__doc__, argv))
    mine = ranks.of_environment()
    if mine is None:
        speak(f"{name}: {config.model.model} on {config.data.data}; it takes some seconds to start")
    from lib import run
    from lib.launching.start import once
    from lib.process import began, dist

    if mine is not None:
        if config.compute.devices not in (None, mine.local_size):
            raise ValueError(
                f"--devices {config.compute.devices}, but this process was started as one of "
                f"{mine.local_size} (LOCAL_WORLD_SIZE); leave --devices out, or {ranks.UNSET}"
            )
        if config.tracking.seeds > 1:
            raise ValueError("--seeds starts one run after another; leave torchrun out and use --devices N")
        return exits.run(lambda: run.train(config), quiet=not dist.env_is_main())
    if config.tracking.seeds > 1:
        from lib.launching import seeds

        return seeds.train(config, once)
    if not config.smoke:
        began.pass_on()
        return once(config)
    half = dataclasses.replace(config.tracking, resume="never", stop_at=3)
    code = once(dataclasses.replace(config, tracking=half))
    if code != exits.STOPPED:
        return code or exits.CRASHED
    speak("smoke: stopped at step 3 as planned, now going on")
    again = dataclasses.replace(config.tracking, resume="auto")
    code = once(dataclasses.replace(config, tracking=again))
    if code == exits.DONE:
        speak("smoke: every part works, a stop and a resume included; a toy's scores mean nothing")
    return code


if __name__ == "__main__":
    exits.leave(exits.run(main))
