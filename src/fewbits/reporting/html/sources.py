"""Which records a folder holds: its own and those of the folders inside it, one level deep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import Record, read_any
from fewbits.reporting.record import RunRecord

_ORDER = (RunRecord, BaselineRecord, AnalysisRecord, LitempRecord, AmpRecord)
"""Layouts in the order of the workflow."""


@dataclass(frozen=True, slots=True)
class Source:
    """One record and where it lies.

    Attributes:
        folder: relative to the folder that was asked for; "" for that folder itself.
        record: what it says.
        is_detail: it is one model of a baseline or of mixed precision, whose own record says all that matters.
    """

    folder: str
    record: Record
    is_detail: bool = False

    @property
    def label(self) -> str:
        """Return how the page names it: the folder, or the verb where that is the folder asked for."""
        return self.folder or self.record.verb


def find_sources(folder: Path) -> tuple[Source, ...]:
    """Return the records in `folder` and in the folders inside it, in the order of the workflow, older ones first.

    Raises:
        SpecError: the folder does not exist, holds no record, or one of its records cannot be read.
    """
    if not folder.is_dir():
        raise SpecError(f"There is no folder {str(folder)!r}: give the output folder of an earlier run.")
    own = folder / names.RECORD
    root = read_any(own) if own.is_file() else None
    has_details = isinstance(root, BaselineRecord | LitempRecord | AmpRecord)
    found = [] if root is None else [Source("", root)]
    for path in sorted(folder.glob(f"*/{names.RECORD}")):
        if not path.parent.name.startswith("."):
            record = read_any(path)
            found.append(Source(path.parent.name, record, has_details and isinstance(record, RunRecord)))
    if not found:
        raise SpecError(
            f"There is no {names.RECORD} in {str(folder)!r} or in a folder inside it: give the output folder of an "
            f"earlier run, or the folder that holds several of them."
        )
    return tuple(sorted(found, key=lambda source: (_ORDER.index(type(source.record)), source.record.created)))


def baselines(sources: Sequence[Source]) -> list[tuple[Source, BaselineRecord]]:
    """Return the baselines, oldest first."""
    return [(source, source.record) for source in sources if isinstance(source.record, BaselineRecord)]


def analyses(sources: Sequence[Source]) -> list[tuple[Source, AnalysisRecord]]:
    """Return the analyses, oldest first."""
    return [(source, source.record) for source in sources if isinstance(source.record, AnalysisRecord)]


def litemps(sources: Sequence[Source]) -> list[tuple[Source, LitempRecord]]:
    """Return the runs of lite mixed precision, oldest first."""
    return [(source, source.record) for source in sources if isinstance(source.record, LitempRecord)]


def amps(sources: Sequence[Source]) -> list[tuple[Source, AmpRecord]]:
    """Return the runs of automatic mixed precision, oldest first."""
    return [(source, source.record) for source in sources if isinstance(source.record, AmpRecord)]


def runs(sources: Sequence[Source]) -> list[tuple[Source, RunRecord]]:
    """Return the runs that made one model on their own, oldest first."""
    return [
        (source, source.record) for source in sources if isinstance(source.record, RunRecord) and not source.is_detail
    ]


def improvements(sources: Sequence[Source]) -> list[tuple[Source, RunRecord]]:
    """Return the runs that gave a model better weights, oldest first."""
    return [(source, record) for source, record in runs(sources) if record.improvement.get("methods")]
