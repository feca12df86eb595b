"""The folders inside that of a workflow: what an earlier run left, and the record of this one says nothing of, goes."""

import shutil
from collections.abc import Collection
from pathlib import Path

from fewbits.artifact import names
from fewbits.errors import OutputError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import read_any
from fewbits.runtime.store import STORE
from fewbits.workflow.auto_rules import RULES


def forget_others(folder: Path, made: Collection[str | None]) -> None:
    """Remove steps that this run did not make, and in those that it made, models that their records do not name.

    Args:
        folder: of the run.
        made: folders of the steps that this run made, relative to it.

    Raises:
        OutputError: one cannot be removed.
    """
    for step in sorted({rule.step for rule in RULES}):
        path = folder / step
        if step in made:
            for model in _models(path) - _named(path):
                _remove(path / model)
        elif (path / names.RECORD).is_file() or (path / STORE).is_file() or _models(path):
            _remove(path)


def _models(path: Path) -> set[str]:
    """Return the names of the folders inside one that hold a record."""
    return {record.parent.name for record in path.glob(f"*/{names.RECORD}")}


def _named(path: Path) -> set[str]:
    """Return the folders that the record of a step names."""
    match read_any(path / names.RECORD):
        case BaselineRecord() as record:
            return {row.precision for row in record.rows}
        case LitempRecord() as record:
            return {record.base, record.high, *(step.folder for step in record.steps if step.folder is not None)}
        case AmpRecord() as record:
            return {point.folder for point in record.points if point.folder is not None}
    return set()


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise OutputError(
            f"Cannot remove {str(path)!r}, which an earlier run left: {error.strerror or error}. Remove it, and run "
            f"again."
        ) from error
