"""Writing files: whole or not at all, and only where they were meant to go.

Somebody else may have prepared the folder that results go to. A link there is never written through: a new file takes
the place of one, and a subfolder that is one is refused.
"""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from robustatt.errors import InputError

UNREADABLE_ZIP = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises for a damaged, encrypted or unknown kind of file (NotImplementedError is a RuntimeError)."""


def write_atomically(path: Path, content: bytes) -> None:
    """A file that is there is whole: written to a temporary name beside it, synced to disk, renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file whole or not at all, making its folder; InputError if it cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write {path}: there is a file where a folder is needed") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def append_line(path: Path, line: str) -> None:
    """Adds a line in one write, so that several processes may share the file; a link of that name is replaced."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EMLINK):
            raise
        path.unlink()
        handle = os.open(path, flags, 0o666)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def subfolder(folder: Path, name: str) -> Path:
    """A folder inside a folder of results, made if need be.

    Raises:
        InputError: it is a link, so what is written to it would lie elsewhere.
        OSError: it cannot be made.
    """
    inner = folder / name
    refuse_link(inner)
    inner.mkdir(parents=True, exist_ok=True)
    return inner


def refuse_link(folder: Path, remedy: str = "remove the link") -> None:
    """InputError if a folder inside a folder of results is a link, which the user has not named as a place to write to."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a link to {os.readlink(folder)}, and results stay in {folder.parent}: {remedy}")


def tree(path: Path) -> Iterator[Path]:
    """A path and all files and folders below it: a folder's own time of change tells of files that are added or removed."""
    if path.exists():
        yield path
    for folder, inner, files in os.walk(path):
        yield from (Path(folder, name) for name in (*inner, *files))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_safe(name: str) -> str:
    """A name from a user as part of a file name: letters, digits, dot, dash and underscore only."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip(".-")
    return safe[:60] or "unnamed"
