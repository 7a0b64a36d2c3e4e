"""The files of a model in a folder: which of them are read, and that they are what they seem.

Beside a model's weights others may lie (an adapter that was merged into them, a second file of weights), and
libraries read what nobody asked for. So they are shown a folder of links to what is a model's alone.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.base.files import read_json

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
POINTER = b"version https://git-lfs.github.com"
CONVERT = "https://huggingface.co/spaces/safetensors/convert"


def weights(folder: Path) -> list[Path]:
    """The safetensors files of a model. Raises ValueError when they are not there, with what is."""
    names = [WHOLE] if (folder / WHOLE).is_file() else []
    if not names and (folder / INDEX).is_file():  # of both transformers takes the whole one
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {missing[0]}, which its {INDEX} names")
    if not names:
        raise ValueError(f"{folder} holds no {WHOLE}{_instead(folder)}")
    return [folder / name for name in names]


def _instead(folder: Path) -> str:
    if (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
        return f", but a LoRA adapter; --model takes a whole model: its base ({base}), or the two merged"
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return f"; {pickles[0]} is a pickle, which can run code and is never read: convert it ({CONVERT})"
    others = sorted(path.name for path in folder.iterdir())
    return f" and no {INDEX}; it holds {', '.join(others[:8]) or 'nothing'}"


def refuse_pointers(folder: Path) -> None:
    """Raises ValueError for a file that git fetched without its content."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise ValueError(
                        f"{path} is a pointer of git LFS and not the file itself; type: "
                        f"cd {folder} && git lfs pull"
                    )


@contextmanager
def alone(source: str) -> Iterator[str]:
    """A place where a library finds a model's configuration and weights without an adapter beside them; a hub
    id is itself. Raises ValueError when there are no weights."""
    folder = Path(source)
    files = weights(folder) if folder.is_dir() else []
    if not (folder / ADAPTER).is_file():
        yield source
        return
    with tempfile.TemporaryDirectory() as links:
        for path in (folder / "config.json", folder / INDEX, *files):
            if path.is_file():
                (Path(links) / path.name).symlink_to(path.absolute())
        yield links
