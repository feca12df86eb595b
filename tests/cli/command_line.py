"""Run commands in this process, as the command line would."""

import sys
from typing import Any

from typer.testing import CliRunner

from fewbits.cli import app

PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'fewbits'; from fewbits.cli import main; main()"]
"""The program in a process of its own, for `subprocess`."""


def words(*arguments: Any) -> list[str]:
    """Return what `subprocess` takes."""
    return [str(argument) for argument in arguments]


def fewbits(*arguments: Any) -> Any:
    """Run a command, whatever comes of it."""
    return CliRunner().invoke(app, words(*arguments))


def ok(*arguments: Any) -> Any:
    """Run a command that must succeed."""
    result = fewbits(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: Any) -> str:
    """Run a command that must be refused: exit code 2, one sentence on stderr, nothing on stdout."""
    result = fewbits(*arguments)
    assert result.exit_code == 2, result.output or repr(result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert line.endswith((".", "?"))
    assert "Traceback" not in line
    return line
