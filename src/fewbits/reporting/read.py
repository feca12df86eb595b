"""Read the record of any verb."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewbits import __version__
from fewbits.errors import SpecError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.decode import decode
from fewbits.reporting.facts import check_folders, checked_facts
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.record import SCHEMA, RunRecord, read_json

Record = RunRecord | BaselineRecord | AnalysisRecord | LitempRecord | AmpRecord | AutoRecord

LAYOUTS: Mapping[str, type[Record]] = {
    "baseline": BaselineRecord,
    "analyze": AnalysisRecord,
    "litemp": LitempRecord,
    "amp": AmpRecord,
    "auto": AutoRecord,
}
"""Verb -> layout of its record; every other verb makes one model and writes a `RunRecord`."""


def read_any(path: Path) -> Record:
    """Read a record, whichever verb wrote it.

    Raises:
        SpecError: the file is missing, is no record, or was written by a newer fewbits.
    """
    document = _document(path)
    return _decoded(path, document, LAYOUTS.get(document["verb"], RunRecord))  # type: ignore[no-any-return]


def read_made(path: Path) -> RunRecord | None:
    """Read what a record says of the model in its folder; None where the run left no model there.

    The record of a run that chose among several models is that of the chosen one as well.

    Raises:
        SpecError: as for `read_any`.
    """
    document = _document(path)
    if not {"profile", "precision", "files"} <= document.keys():
        return None
    return _decoded(path, document, RunRecord)  # type: ignore[no-any-return]


def _decoded(path: Path, document: dict[str, Any], layout: type[Record]) -> Any:
    if document["schema"] > SCHEMA:
        raise SpecError(f"The record {str(path)!r} was written by a newer fewbits: upgrade this one ({__version__}).")
    try:
        found = decode(layout, checked_facts(layout, document))
        check_folders(found)
    except ValueError as error:
        raise SpecError(
            f"The record {str(path)!r} cannot be read: {error}. Run `fewbits {document['verb']}` again."
        ) from error
    return found


def _document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, with a verb and the number of a schema."""
    document = read_json(path)
    if not isinstance(document.get("verb"), str) or type(document.get("schema")) is not int:
        raise SpecError(f"{str(path)!r} is no record of fewbits: it names no verb and no schema.")
    return document
