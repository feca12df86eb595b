"""Verb report: one HTML page from the records of runs."""

from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import write_file
from fewbits.errors import OutputError
from fewbits.reporting.html.certificates import find_cards
from fewbits.reporting.html.page import render
from fewbits.reporting.html.sources import find_sources


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write one self-contained HTML page from the records in a folder and in the folders inside it.

    The page opens without a network. It joins what there is: scores of a baseline, the curve of lite mixed precision,
    sensitivity, diagnosis and ranges of an analysis, parity certificates, settings and versions of all of them.

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
    if path.is_dir():
        raise OutputError(
            f"Cannot write to {str(path)!r}: it is a folder; name a file with -o {str(path / names.REPORT)!r}."
        )
    write_file(path, render(sources, cards).encode())
    return path
