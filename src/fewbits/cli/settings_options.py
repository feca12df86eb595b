"""The options of every verb as a settings file names them, read off the signatures of the commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo
from typer.utils import get_params_from_function

WITHOUT_SETTINGS = ("init",)
"""Verbs that read no settings file."""
_PATHS = ("data", "eval-data", "folder", "model", "output", "reference", "run", "weights")
_KINDS = {bool: "flag", int: "whole", float: "number", Path: "path", str: "words"}


@dataclass(frozen=True, slots=True)
class Option:
    """An option (or argument) of one verb.

    Attributes:
        name: on the command line, without its dashes; an argument is called as its parameter.
        parameter: of the command's function.
        kind: what a settings file may give it; see `settings_values.WANTED`.
    """

    name: str
    parameter: str
    kind: str


def options_of(command: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a command's function, by their names on the command line."""
    found = {}
    for parameter, meta in get_params_from_function(command).items():
        info = meta.default
        if isinstance(info, ArgumentInfo):
            name = parameter
        elif isinstance(info, OptionInfo):
            longs = [text for text in info.param_decls or () if text.startswith("--")]
            name = longs[0].partition("/")[0][2:] if longs else parameter.replace("_", "-")
        else:
            continue  # typer.Context, which is no option
        found[name] = Option(name, parameter, _kind(name, meta.annotation))
    return found


@cache
def verbs() -> Mapping[str, Mapping[str, Option]]:
    """Return verb -> its options, of every verb that a settings file may have a section for."""
    from fewbits.cli.app import app  # which imports this file

    return {
        command.name: options_of(command.callback)
        for command in app.registered_commands
        if command.name and command.callback and command.name not in WITHOUT_SETTINGS
    }


def _kind(name: str, annotation: Any) -> str:
    if name == "dim":
        return "sizes"
    alternatives = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    (wanted,) = (kind for kind in alternatives if kind is not NoneType)
    if get_origin(wanted) in (list, tuple):
        return "texts"
    kind = _KINDS[wanted]
    return "path" if kind == "words" and name in _PATHS else kind
