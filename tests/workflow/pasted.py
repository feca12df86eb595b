"""Commands that a run tells its user to paste."""

import shlex

import typer

from fewbits.cli.app import app


def assert_parses(command: str) -> None:
    """Check that a command line is one that the program takes, without running it."""
    words = shlex.split(command)
    assert words[0] == "fewbits"
    typer.main.get_command(app).commands[words[1]].make_context(words[1], words[2:])
