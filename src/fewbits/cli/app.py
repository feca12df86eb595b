"""The program `fewbits`: its commands in the order of the workflow, and how it ends.

Exit codes: 0 done; 1 `verify` failed; 2 something that the user can mend, one sentence on stderr; 130 interrupted;
141 the reader of stdout went away.
"""

import errno
import io
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fewbits.cli import (
    adopt,
    amp,
    analyze,
    auto,
    baseline,
    check,
    convert,
    deploy,
    improve,
    init,
    litemp,
    model,
    quantize,
    report,
    submit,
    targets,
)
from fewbits.cli.settings_command import Workflow, choose_settings
from fewbits.errors import FewbitsError

INTERRUPTED = 130
BROKEN_PIPE = 141


class Program(TyperGroup):
    """The group of all commands, with errors as one sentence each."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except FewbitsError as error:
            code = _say(str(error))
        except OSError as error:
            is_long = error.errno == errno.ENAMETOOLONG
            code = (
                _say(f"The name {error.filename!r:.80} is too long for a file: check the path.")
                if is_long
                else (_stdout_failed(error))
            )
        except Exception as error:
            # typer's own usage errors: its class moved between versions, its interface did not
            if not hasattr(error, "format_message"):
                raise
            code = _usage(error)
        if code == INTERRUPTED:
            _say("interrupted; nothing is half-written, and what was finished is kept.")
        sys.exit(code if isinstance(code, int) else 0)


def _say(sentence: str) -> int:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    return 2


def _stdout_failed(error: OSError) -> int:
    """Answer the failure of stdout: silence where its reader went away, as in `fewbits ... | head`."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except io.UnsupportedOperation:
        raise error from None
    except OSError as again:
        # what is left in the buffer must not fail once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(again, BrokenPipeError):
            return BROKEN_PIPE
        return _say(f"Cannot write to the standard output: {again.strerror}.")
    raise error


def _usage(error: Any) -> int:
    text = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(text)
        return 2
    path = getattr(getattr(error, "ctx", None), "command_path", "fewbits")
    return _say(f"{text.rstrip('.')}; see `{path} --help`.")


app = Workflow(
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the fewest bits a trained network can run in, and hand over files that the device's toolchain accepts.",
)
app.command("init", cls=TyperCommand)(init.init)
app.command("auto")(auto.auto)
app.command("latency")(auto.latency)
app.command("convert")(convert.convert)
app.command("inspect")(model.inspect)
app.command("prepare")(model.prepare)
app.command("quantize")(quantize.quantize)
app.command("baseline")(baseline.baseline)
app.command("analyze")(analyze.analyze)
app.command("litemp")(litemp.litemp)
app.command("amp")(amp.amp)
app.command("adaround")(improve.adaround)
app.command("improve")(improve.improve)
app.command("qat")(improve.qat)
app.command("evaluate")(check.evaluate)
app.command("export")(baseline.export)
app.command("verify")(check.verify)
app.command("lint")(deploy.lint)
app.command("compile")(deploy.compile)
app.command("estimate")(deploy.estimate)
app.command("submit")(submit.submit)
app.command("import")(adopt.import_qdq)
app.command("apply-encodings")(adopt.apply_encodings)
app.command("runs")(report.runs)
app.command("report")(report.report)
app.command("targets")(targets.targets)
app.command("chips")(deploy.chips)


def _version(value: bool) -> None:
    if value:
        from fewbits import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def program(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings of the verb.", show_default="fewbits.toml, if any"),
    ] = None,
    no_config: Annotated[bool, typer.Option("--no-config", help="Read no settings file.")] = False,
) -> None:
    """Find the fewest bits a trained network can run in, and hand over files that the device's toolchain accepts."""
    del version
    choose_settings(ctx, config, off=no_config)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logging.getLogger("fewbits").handlers = [handler]


def main() -> None:
    """Run the command line."""
    app()
