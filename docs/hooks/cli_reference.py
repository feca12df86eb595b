# ruff: noqa: INP001 - a hook of mkdocs, not a package
"""The command line reference, written from the program itself when the site is built: nothing there is kept by hand."""

from collections.abc import Iterator
from typing import Any

import typer

PLACE = "<!-- commands -->"
"""Where the reference is put in a page."""
_OTHERS, _NUMBER = "Options", "N"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference in the place of the mark; mkdocs calls this for every page."""
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Return the reference of all commands as Markdown, in the order of `fewbits --help`."""
    from fewbits.cli.app import app

    program: Any = typer.main.get_command(app)
    context = typer.Context(program, info_name="fewbits")
    parts = ["## fewbits", *_command(program, context, path="fewbits")]
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        parts += [f"## fewbits {name}", *_command(command, context, path=f"fewbits {name}")]
    return "\n\n".join(parts) + "\n"


def _command(command: Any, context: Any, *, path: str) -> Iterator[str]:
    yield _plain(command.help)
    own = typer.Context(command, info_name=path.rpartition(" ")[2], parent=context if " " in path else None)
    yield "\n".join(("```text", f"{path} {' '.join(command.collect_usage_pieces(own))}", "```"))
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    if arguments:
        yield _table(("argument", "what it is"), [(f"`{one.metavar or one.name}`", _help(one)) for one in arguments])
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            panels.setdefault(getattr(param, "rich_help_panel", None) or _OTHERS, []).append(param)
    for panel, params in panels.items():
        yield f"**{panel}**"
        yield _table(("option", "what it does", "default"), [_option(param) for param in params])


def _option(param: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    value = (param.metavar or _NUMBER).replace("|", "&#124;")  # a bar in a cell, where backticks would show the escape
    return names if param.is_flag else f"{names} <code>{value}</code>", _help(param), _default(param)


def _help(param: Any) -> str:
    return _plain(getattr(param, "help", None) or "")


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return _plain(param.show_default)
    if param.required:
        return "required"
    if param.default is None or param.default is False or not param.show_default:
        return ""
    if param.is_flag:
        return f"`{param.opts[0]}`"
    return f"`{param.default}`"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
