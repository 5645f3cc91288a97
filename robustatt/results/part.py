"""What every part of a summary is, and the kinds of number that stand in one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from robustatt.eps import parse_radius
from robustatt.errors import InputError


def _is_radius(text: str) -> str:
    try:
        parse_radius(text)
    except InputError as problem:
        raise ValueError(str(problem)) from None
    return text


Radius = Annotated[str, AfterValidator(_is_radius)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
ClassIndex = Annotated[int, Field(ge=0, lt=2**31)]


def in_percent(share: float, low: float, high: float) -> str:
    """A share and its interval as tables show them: ``81.2 [78.7, 83.5]``."""
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


class Part(BaseModel):
    """A part of the summary. Immutable; `as_dict` gives what the file holds, in the file's order."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True, by_alias=True)
