"""Where files of records lie: a local folder, or anything fsspec can write to (s3://, gs://, memory://, ...).

A file that is there is whole.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, final
from urllib.parse import unquote, urlsplit

from robustatt.errors import InputError, did_you_mean, first_line
from robustatt.files import write_atomically

#: which extra brings the driver of a scheme
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
#: stores whose put is seen whole or not at all; elsewhere a file is put under a temporary name and moved
ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}
PROBE = ".writable"


class RecordStorage(ABC):
    """A flat collection of files by name."""

    @abstractmethod
    def check(self) -> None:
        """InputError, in one line, if nothing can be written here. Leaves nothing behind."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for writing; InputError if that is not possible."""

    @abstractmethod
    def names(self) -> set[str]:
        """The names of the files that are here; none if the place does not exist yet."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file. FileNotFoundError if it is not here; InputError if it cannot be read."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write a file so that others see it whole or not at all."""

    @abstractmethod
    def rename(self, name: str, other: str) -> None:
        """Move a file to another name in the same place."""


@final
class LocalStorage(RecordStorage):
    """A folder of this machine, or one that is mounted on it. `flag` is what the user named it by."""

    def __init__(self, folder: Path, flag: str = "--out") -> None:
        self.folder, self._flag = folder, flag

    def __str__(self) -> str:
        return str(self.folder)

    def check(self) -> None:
        nearest = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise self._refusal(f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise self._refusal("Permission denied")

    def prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / PROBE, b"")
            (self.folder / PROBE).unlink(missing_ok=True)
        except OSError as problem:
            raise self._refusal(str(problem.strerror)) from None

    def _refusal(self, reason: str) -> InputError:
        return InputError(f"{self._flag}: cannot write to {self.folder.parent} ({reason}): give a folder you may write to")

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    def read(self, name: str) -> bytes:
        try:
            if (self.folder / name).is_symlink():
                return b""  # a link leads out of the folder: whatever is there, it is not one of our files
            return (self.folder / name).read_bytes()
        except NotADirectoryError:
            raise FileNotFoundError(name) from None
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise InputError(f"records {self.folder / name}: cannot be read ({problem.strerror})") from None

    def put(self, name: str, content: bytes) -> None:
        write_atomically(self.folder / name, content)

    def rename(self, name: str, other: str) -> None:
        (self.folder / name).replace(self.folder / other)


@final
class RemoteStorage(RecordStorage):
    """A place behind an fsspec file system.

    Raises:
        InputError: the scheme is unknown, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url, self.scheme = url.rstrip("/"), url.partition("://")[0]
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as problem:
            extra = EXTRAS.get(self.scheme)
            remedy = f"pip install 'robustatt[{extra}]'" if extra else first_line(problem)
            raise InputError(f"records {url}: no driver for {self.scheme}:// is installed: {remedy}") from None
        except ValueError as problem:
            known = did_you_mean(self.scheme, ["file", "s3", "gs", "memory"])
            raise InputError(f"records {url}: {first_line(problem)}: {known}") from None

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStorage, (self.url,)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def check(self) -> None:
        probe = f"{PROBE}-{uuid.uuid4().hex}"
        try:
            if self.scheme not in ATOMIC:
                self._system.makedirs(self._root, exist_ok=True)
            self._system.pipe_file(self._path(probe), b"")
            self._system.rm_file(self._path(probe))
        except Exception as problem:  # a driver may fail in any way of its own
            raise InputError(
                f"records {self.url}: cannot write there ({first_line(problem)}): give a place you may write to"
            ) from None

    def prepare(self) -> None:
        self.check()

    def names(self) -> set[str]:
        try:
            return {str(path).rsplit("/", 1)[-1] for path in self._system.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            raise
        except Exception as problem:  # a driver may fail in any way of its own
            raise InputError(f"records {self.url}/{name}: cannot be read ({first_line(problem)})") from None

    def put(self, name: str, content: bytes) -> None:
        if self.scheme in ATOMIC:
            self._system.pipe_file(self._path(name), content)
            return
        temporary = self._path(f".{name}.{uuid.uuid4().hex}.part")
        self._system.pipe_file(temporary, content)
        self._system.mv(temporary, self._path(name))

    def rename(self, name: str, other: str) -> None:
        self._system.mv(self._path(name), self._path(other))


def place(where: str | Path) -> RecordStorage:
    """The place that a folder or a URL names; `file://` is a local folder."""
    if isinstance(where, str) and "://" in where:
        if where.startswith("file://"):
            return LocalStorage(Path(unquote(urlsplit(where).path)), "--records")
        return RemoteStorage(where)
    return LocalStorage(Path(where))
