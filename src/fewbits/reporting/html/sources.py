"""Which records a folder holds: its own and those of the folders inside it, two levels deep for a whole workflow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import Record, read_any, read_made
from fewbits.reporting.record import RunRecord

_ORDER = (RunRecord, BaselineRecord, AnalysisRecord, LitempRecord, AmpRecord, AutoRecord)
"""Layouts in the order of the workflow."""
_SEVERAL = (BaselineRecord, LitempRecord, AmpRecord)
"""Layouts of runs that made several models, each in a folder inside theirs."""


@dataclass(frozen=True, slots=True)
class Source:
    """One record and where it lies.

    Attributes:
        folder: relative to the folder that was asked for; "" for that folder itself.
        record: what it says.
        is_detail: it is one model of a baseline or of mixed precision, whose own record says all that matters.
        is_part: it is a step of a whole workflow, whose own record tells what came of it.
        made: what is recorded of the model in the same folder; None where it holds none, or `record` says it all.
    """

    folder: str
    record: Record
    is_detail: bool = False
    is_part: bool = False
    made: RunRecord | None = None

    @property
    def label(self) -> str:
        """Return how the page names it: the folder, or the verb where that is the folder asked for."""
        return self.folder or self.record.verb


def find_sources(folder: Path) -> tuple[Source, ...]:
    """Return the records in `folder` and in the folders inside it, in the order of the workflow, older ones first.

    In the folder of a whole workflow (verb auto), they are looked for in the folders of its steps, too.

    Raises:
        SpecError: the folder does not exist, holds no record, or one of its records cannot be read.
    """
    if not folder.is_dir():
        raise SpecError(f"There is no folder {str(folder)!r}: give the output folder of an earlier run.")
    own = folder / names.RECORD
    root = read_any(own) if own.is_file() else None
    found = [] if root is None else [Source("", root, made=None if isinstance(root, RunRecord) else read_made(own))]
    found += _inside(folder, root, "", depth=2 if isinstance(root, AutoRecord) else 1)
    if not found:
        raise SpecError(
            f"There is no {names.RECORD} in {str(folder)!r} or in a folder inside it: give the output folder of an "
            f"earlier run, or the folder that holds several of them."
        )
    if isinstance(root, AutoRecord):
        found = [replace(source, is_part=source.record is not root) for source in found]
    return tuple(sorted(found, key=lambda source: (_ORDER.index(type(source.record)), source.record.created)))


def find_run(folder: Path) -> Source:
    """Return the record of one run, with that of the model that it chose; the page calls it as the caller does.

    Raises:
        SpecError: the folder does not exist, holds no record, or one that cannot be read.
    """
    if not folder.is_dir():
        raise SpecError(f"There is no folder {str(folder)!r}: give the output folder of an earlier run.")
    record = read_any(folder / names.RECORD)
    made = record if isinstance(record, RunRecord) else read_made(folder / names.RECORD)
    if isinstance(record, BaselineRecord) and record.verdict["accepted"] is not None:
        chosen = folder / str(record.verdict["accepted"]) / names.RECORD
        made = read_made(chosen) if chosen.is_file() else None
    return Source(str(folder), record, made=made)


def _inside(folder: Path, owner: Record | None, where: str, depth: int) -> Iterator[Source]:
    """Yield the records in the folders inside one; `owner` is what that one's own record says."""
    for path in sorted(folder.glob("*")):
        if path.name.startswith(".") or not path.is_dir():
            continue
        record = read_any(path / names.RECORD) if (path / names.RECORD).is_file() else None
        if record is not None:
            is_detail = isinstance(owner, _SEVERAL) and isinstance(record, RunRecord)
            yield Source(where + path.name, record, is_detail)
        if depth > 1:
            yield from _inside(path, record, f"{where}{path.name}/", depth - 1)


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


def autos(sources: Sequence[Source]) -> list[tuple[Source, AutoRecord]]:
    """Return the whole workflows, oldest first."""
    return [(source, source.record) for source in sources if isinstance(source.record, AutoRecord)]


def runs(sources: Sequence[Source]) -> list[tuple[Source, RunRecord]]:
    """Return the runs that made one model on their own, oldest first."""
    return [
        (source, source.record) for source in sources if isinstance(source.record, RunRecord) and not source.is_detail
    ]


def improvements(sources: Sequence[Source]) -> list[tuple[Source, RunRecord]]:
    """Return the runs that gave a model better weights, oldest first."""
    return [(source, record) for source, record in runs(sources) if record.improvement.get("methods")]
