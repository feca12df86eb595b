"""How commands take their settings: before a command line is parsed, the file's values become the defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from fewbits.cli.settings import Given, open_settings
from fewbits.errors import SpecError

_FILE, _USED, _OFF = "fewbits.settings.file", "fewbits.settings.used", "fewbits.settings.off"


class Verb(TyperCommand):
    """A command whose options and arguments may come from a settings file; flags override it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the settings, then the command line."""
        is_help = bool({*args} & {*ctx.help_option_names})
        settings = None if is_help or ctx.meta.get(_OFF) else open_settings(ctx.meta.get(_FILE))
        if settings is None or self.name is None:
            return super().parse_args(ctx, args)
        given = settings.defaults(self.name, args)
        ctx.default_map = {parameter: item.value for parameter, item in given.items()}
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            if (sentence := _blame(ctx, given, error)) is not None:
                raise SpecError(f"{settings.path}: {sentence}") from error
            raise
        used = [item.where for parameter, item in given.items() if _is_used(ctx, parameter)]
        if used:
            ctx.meta[_USED] = f"settings from {settings.path}: {', '.join(used)}"
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Say which settings are used, then run."""
        if _USED in ctx.meta and not (ctx.params.get("quiet") or ctx.params.get("json")):
            typer.echo(ctx.meta[_USED], err=True)
        return super().invoke(ctx)


class Workflow(typer.Typer):
    """A program whose commands read settings."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return the decorator of a command, which is a `Verb` unless `cls` says otherwise."""
        return super().command(name, **{"cls": Verb, **options})


def choose_settings(ctx: Any, file: Path | None, *, off: bool) -> None:
    """Keep what the global options say for the command that follows.

    Raises:
        SpecError: a file is named and switched off at once.
    """
    if off and file is not None:
        raise SpecError("--config names a settings file and --no-config ignores it: leave one of them out.")
    ctx.meta[_FILE], ctx.meta[_OFF] = file, off


def _is_used(ctx: Any, parameter: str) -> bool:
    # by name: click's enum moved between versions of typer
    return getattr(ctx.get_parameter_source(parameter), "name", "") == "DEFAULT_MAP"


def _blame(ctx: Any, given: Mapping[str, Given], error: Exception) -> str | None:
    """Return what is wrong with the value of the file that a usage error is about, None where it is about another."""
    parameter = str(getattr(getattr(error, "param", None), "name", ""))
    if parameter not in given or not hasattr(error, "message") or not _is_used(ctx, parameter):
        return None
    section, _, key = given[parameter].where.partition(".")
    return f"[{section}] {key} cannot be used: {str(error.message).rstrip('.')}."
