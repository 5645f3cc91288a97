"""Options of a command made of the fields of a dataclass, so that each setting is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

Command = Callable[..., None]


def with_settings(request: type, settings: Sequence[Field[Any]], shared: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Gives a command an option for each setting, which it gets as ``**settings``.

    Help is the field's ``metadata["help"]``, and ``metadata["switch"]`` is true for one that can only be turned on; ``shared`` has the options that several commands declare together. A setting without
    a default becomes None where it is not given, since a plan file may say it.
    """

    def give(command: Command) -> Command:
        types = get_type_hints(request)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        made = [
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if setting.default is MISSING else setting.default,
                annotation=shared.get(setting.name) or _option(setting, types[setting.name]),
            )
            for setting in settings
        ]
        command.__signature__ = inspect.Signature([*made, *own])  # type: ignore[attr-defined]
        return command

    return give


def _option(setting: Field[Any], kind: Any) -> Any:
    """The annotation that typer reads."""
    plain = next((part for part in (bool, int, float, Path) if part in (kind, *get_args(kind))), str)
    flag = [f"--{setting.name}"] if setting.metadata["switch"] else []
    return Annotated[plain | None, typer.Option(*flag, help=setting.metadata["help"])]
