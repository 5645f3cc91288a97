"""Where robustatt keeps what is costly to compute again: content hashes and downloads."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


def cache_folder() -> Path:
    """``ROBUSTATT_CACHE`` if it is set, otherwise ``robustatt`` in the user's cache folder."""
    chosen = os.environ.get("ROBUSTATT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustatt"


def remembered(purpose: str, files: Iterable[Path], compute: Callable[[], str]) -> str:
    """The text that ``compute`` gives for these files, computed again only when one of them changes.

    The key is the purpose and each file's path, size and time of change. A cache that cannot be written is
    no error: the text is then computed each time.
    """
    digest = hashlib.sha256(purpose.encode())
    for file in files:
        status = file.stat()
        digest.update(f"\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    kept = cache_folder() / "hashes" / digest.hexdigest()
    try:
        return kept.read_text()
    except OSError:
        text = compute()
    _keep(kept, text)
    return text


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
            part.write(text)
        os.replace(part.name, path)
    except OSError:
        return
