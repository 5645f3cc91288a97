"""What a sweep tells while it runs."""

from __future__ import annotations

from typing import Protocol

from robustatt.plan import Cell


class Progress(Protocol):
    """Somebody who watches a sweep."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None:
        """How many (example, radius) images there are to evaluate in how many Cells, and how many Cells are done already."""

    def advance(self, cell: Cell, images: int) -> None:
        """That many more images are done, by whichever worker."""

    def failed(self, cell: Cell, cause: str, log: str) -> None:
        """A Cell failed: the cause in one line with what happens now, and what its worker said (may be empty)."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, images: int, cells: int, cells_ready: int) -> None: ...

    def advance(self, cell: Cell, images: int) -> None: ...

    def failed(self, cell: Cell, cause: str, log: str) -> None: ...
