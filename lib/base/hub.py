"""The Hugging Face hub: asked once, with a short timeout, so that a machine without a network hears at once.

The token for gated repositories comes from HF_TOKEN or its file.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

TIMEOUT_S = 10
CONFIGURATIONS = "of one with several configurations name one: org/name:configuration"


Kind = Literal["model", "dataset"]


class UnreachableError(Exception):
    """No network, no such host, or offline mode."""


def parts_of(name: str) -> tuple[str, str | None]:
    """`org/name:configuration` -> the hub id and which of the data set's configurations, if it is said."""
    identity, _, configuration = name.partition(":")
    return identity, configuration or None


def is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def commit_of(kind: Kind, name: str, revision: str) -> str:
    """The commit that `revision` (a branch, a tag) is now, which is remembered; a commit is itself. Raises
    ValueError when there is no such repository or no right to it, UnreachableError."""
    if is_commit(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    api = huggingface_hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        commit = ask(name, revision=revision, timeout=TIMEOUT_S).sha
    except HfHubHTTPError as error:
        raise ValueError(f"hub {kind} {name} at {revision}: {first_line(error)}") from error
    except HFValidationError as error:
        raise ValueError(f"{name} is neither a file here nor a hub id: {first_line(error)}") from error
    except (OSError, HTTPError) as error:  # offline mode; no name, no route, no answer
        raise UnreachableError(first_line(error)) from error
    assert commit is not None, "the hub names the commit of every repository"
    with suppress(OSError):  # a cache that others own
        ref = cache(kind, name) / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
    return commit


def remembered(kind: Kind, name: str, revision: str) -> str | None:
    """The commit of an earlier download, for a machine that does not reach the hub: what the revision was
    when the hub was last asked. None when nothing of it is here."""
    if is_commit(revision):
        return revision
    folder = cache(kind, name)
    with suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
        return commit if (folder / "snapshots" / commit).is_dir() else None
    return None


def where_of(name: str, revision: str) -> dict[str, Any]:
    """The words by which libraries read one commit of a hub model; where the hub cannot be reached, what an
    earlier download left. Raises ValueError as commit_of does."""
    try:
        return {"revision": commit_of("model", name, revision)}
    except UnreachableError:
        return {"revision": remembered("model", name, revision) or revision, "local_files_only": True}


def cache(kind: Kind, name: str) -> Path:
    """Where the hub's library keeps a repository; it writes refs as we do, but only of what it downloads by
    the name of a branch."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def safetensors_of(name: str) -> str | None:
    """The revision at which the hub's own bot has put a model's weights as safetensors; None when there is
    none or the hub cannot be asked."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        discussions = huggingface_hub.HfApi().get_repo_discussions(name, author="SFconvertbot")
        found = [one.git_reference for one in discussions if one.is_pull_request and one.status != "closed"]
    except (HfHubHTTPError, HFValidationError, OSError, HTTPError):
        return None
    return next(filter(None, found), None)


def licence_of(name: str) -> str | None:
    """The licence that a model's page names; None when it names none or cannot be asked."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        card = huggingface_hub.HfApi().model_info(name, timeout=TIMEOUT_S).card_data
    except (HfHubHTTPError, HFValidationError, OSError, HTTPError):
        return None
    return card.license if card is not None and isinstance(card.license, str) else None


def first_line(error: BaseException) -> str:
    """What an exception says, in one line: its first, and the next where that only announces it."""
    first, *rest = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join([first, *rest[:1]]) if first.endswith(":") else first
