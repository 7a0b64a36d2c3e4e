"""An exported folder -> a repository of the Hugging Face hub.

The token comes from HF_TOKEN or from its file, never from a flag: command lines are seen by everybody on a
machine and end up in histories and logs.
"""

from pathlib import Path
from typing import Literal

from lib.base.hub import first_line

HOW = "put a token with write access into HF_TOKEN, or run: hf auth login"


def refuse(repository: str | None, public: bool, dry_run: bool) -> None:
    """Raises ValueError, before anything is written, when a later `send` could not work."""
    if repository is None:
        if public or dry_run:
            raise ValueError(f"{'--public' if public else '--dry-run'} is for --push ORG/NAME; add it")
        return
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"--push {repository}: {first_line(error)}") from error
    if repository.count("/") != 1:
        raise ValueError(f"--push {repository} must be ORG/NAME, the owner and the repository's name")
    if not dry_run and not huggingface_hub.get_token():
        raise ValueError(f"--push {repository} needs a token and there is none; {HOW}")


def send(
    folder: Path, repository: str, private: bool, dry_run: bool, kind: Literal["model", "dataset"] = "model"
) -> str:
    """Send every file in one commit; what was, or would be, sent. A repository that is there already keeps
    its history and its visibility. Raises ValueError when the hub refuses or is out of reach."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"  {path.stat().st_size:>14,} bytes  {path.relative_to(folder)}" for path in files]
    total = sum(path.stat().st_size for path in files)
    seen_by = "private" if private else "public"
    where = f"{repository} ({seen_by}, if it is new), {len(files)} files, {total / 2**20:,.1f} MiB"
    if dry_run:
        return "\n".join([f"would send to {where}; nothing was sent:", *lines])
    api = huggingface_hub.HfApi(token=huggingface_hub.get_token())
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type=kind)
        message = {"model": "Fine-tuned model", "dataset": "Processed rows"}[kind]
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, repo_type=kind
        )
    except (HfHubHTTPError, HTTPError, OSError) as error:
        also = "" if kind == "model" else f" --repo-type {kind}"
        raise ValueError(
            f"{folder} is exported but was not sent to {repository}: {first_line(error)}; once that is "
            f"mended ({HOW}), type: hf upload {repository} {folder} .{also}"
        ) from error
    return "\n".join([f"sent to {where}: {commit.commit_url}", *lines])
