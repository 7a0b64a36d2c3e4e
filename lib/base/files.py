"""Files that are whole or not there (written beside, flushed to the disk, renamed), and locks on them."""

import csv
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import IO, Any

from lib.base.console import speak

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a disk without flock says


class Lock:
    """A file (made where there is none) or a folder that nobody else has locked, until `release`, the end of
    a `with`, or the end of this process, however it ends: the system drops the lock of a dead one."""

    def __init__(self, path: Path, wait: bool = False, shared: bool = False) -> None:
        """Raises BlockingIOError when a live process holds it; does not if it may `wait`. Several may hold a
        `shared` one."""
        # over some network disks only what is open for writing can be locked; a folder never is
        self._handles = [os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)]
        how = (LOCK_SH if shared else LOCK_EX) | (0 if wait else LOCK_NB)
        try:
            try:
                flock(self._handles[0], how)
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                self._elsewhere(path, how)
        except BaseException:
            self.release()
            raise

    def _elsewhere(self, path: Path, how: int) -> None:
        """On a disk without locks: one among the temporary files of this machine stands for it."""
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
        other = Path(tempfile.gettempdir()) / f"lock-{os.getuid()}-{name}"
        self._handles.append(os.open(other, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            flock(self._handles[1], how)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            speak(f"WARNING: {path} cannot be locked ({error.strerror}): let one process at a time use it")

    def release(self) -> None:
        for handle in self._handles:
            os.close(handle)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, new: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` in one move when all of it was written. Raises ValueError
    when it was to be `new` and there is one by then."""
    beside = path.with_name(f".{path.name[:60]}.{os.getpid()}")  # a name may have 255 bytes
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if new:
            _place_new(beside, path)
        else:
            beside.replace(path)
    except FileExistsError as error:
        raise ValueError(
            f"{path} was made by somebody else meanwhile and is not overwritten; name another file"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _place_new(beside: Path, path: Path) -> None:
    """Raises FileExistsError where a rename would replace."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links: an empty file takes the place, ours takes its
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        beside.replace(path)


def write_text(path: Path, text: str, new: bool = False) -> None:
    """Replace `path` in one move, or make it `new`. Half an emoji in an id, a foreign byte in a name are no
    UTF-8 and written as their numbers: nothing dies while it writes."""
    with replacing(path, new) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def sha256_of(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The value in `path`. Raises ValueError naming the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The object in `path`. Raises ValueError naming the file when it is missing, broken or no object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} cannot be read: it holds no JSON object")
    return value


def write_lines(path: Path, values: Iterable[Any], new: bool = False) -> None:
    """One JSON value a line, in ASCII: half an emoji or an exotic line break in a text can do no harm."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values), new)


def write_csv(path: Path, rows: list[dict[str, Any]], new: bool = False) -> None:
    """A header of the first row's keys, and the rows."""
    # a cell with either kind of line end is quoted when both end a row
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    lines = []
    for row in (dict(zip(rows[0], rows[0], strict=True)), *rows):
        writer.writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n"))
        text.seek(0)
        text.truncate()
    write_text(path, "\n".join([*lines, ""]), new)


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file; a last line that a kill cut short is left out."""
    values = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:  # also the empty text after the last line
            break
    return values
