"""Is there a key for Weights & Biases? Asked before anything is trained: the run's follower could only say no
in a log, hours later."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
PUBLIC = "api.wandb.ai"  # where keys of the public service stand, whatever its address is today


def require_key() -> None:
    """Raises ValueError when nobody is logged in at the server that wandb would ask."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or any(os.environ.get(name) for name in KEYS):
        return
    host = urlsplit(settings.base_url).hostname
    if key_in_netrc({host, PUBLIC}) is None:
        raise ValueError(
            f"--wandb online, but there is no key for {host}: type `wandb login`, set WANDB_API_KEY, or use "
            "--wandb offline (the run is kept, and sent later with `wandb sync`)"
        )


def key_in_netrc(hosts: set[str | None]) -> str | None:
    """The key of the first of these hosts that the file of passwords knows. Raises ValueError when it cannot
    be read."""
    named = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in named):
        if path.is_file():
            try:
                known = netrc.netrc(path).hosts
            except (netrc.NetrcParseError, OSError) as error:
                raise ValueError(f"--wandb online: {path} cannot be read ({error})") from error
            return next((password or "" for host, (_, _, password) in known.items() if host in hosts), None)
    return None
