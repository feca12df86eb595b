"""Verb report: one HTML page from the records of runs, or of two runs side by side."""

from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import write_file
from fewbits.errors import OutputError, SpecError
from fewbits.reporting.html.certificates import find_cards
from fewbits.reporting.html.compare import render_comparison
from fewbits.reporting.html.page import render
from fewbits.reporting.html.sources import find_run, find_sources

COMPARISON = "compare.html"
"""Name of the page that sets two runs side by side."""


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write one self-contained HTML page from the records in a folder and in the folders inside it.

    The page opens without a network. It joins what there is: verdict, decisions and candidates of a whole workflow,
    scores of a baseline, the curve of lite mixed precision, sensitivity, diagnosis and ranges of an analysis, parity
    certificates, settings and versions of all of them.

    Args:
        folder: output folder of a run, or a folder that holds several of them.
        output: file to write; None writes report.html into `folder`.

    Returns:
        The file that was written.

    Raises:
        SpecError: the folder holds no record, or one that cannot be read.
        OutputError: the page cannot be written.
    """
    sources, cards = find_sources(Path(folder)), find_cards(Path(folder))
    path = Path(folder) / names.REPORT if output is None else Path(output)
    return _write(path, names.REPORT, render(sources, cards))


def compare(first: str | Path, second: str | Path, output: str | Path | None = None) -> Path:
    """Write one self-contained HTML page that sets two runs side by side, whatever verbs wrote them.

    It holds both verdicts, scores and costs, the candidates of both on one chart, the nodes whose precision differs
    between the two chosen models, and the settings and versions that differ.

    Args:
        first: output folder of a run.
        second: output folder of another.
        output: file to write; None writes compare.html into the current folder.

    Returns:
        The file that was written.

    Raises:
        SpecError: a folder holds no record, or one that cannot be read, or both are the same.
        OutputError: the page cannot be written.
    """
    if Path(first).resolve() == Path(second).resolve():
        raise SpecError(f"Both runs are {str(first)!r}: name two different output folders to compare.")
    sides = find_run(Path(first)), find_run(Path(second))
    return _write(Path(COMPARISON if output is None else output), COMPARISON, render_comparison(*sides))


def _write(path: Path, usual: str, page: str) -> Path:
    if path.is_dir():
        raise OutputError(f"Cannot write to {str(path)!r}: it is a folder; name a file with -o {str(path / usual)!r}.")
    # names of files need not be text in any encoding; those that are not cannot be shown
    write_file(path, page.encode(errors="replace"))
    return path
