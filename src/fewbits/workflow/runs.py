"""Verb runs: what lies in a folder: runs, what came of them, and which were stopped and can go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.analysis_record import AnalysisRecord
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import Record, read_any
from fewbits.runtime.store import STORE, count_results

_DEPTH = 3
"""Folders below the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        folder: where it lies.
        verb: the command; empty where nothing but a store is left of it.
        created: when it was written, UTC, ISO 8601; empty likewise.
        model: its source.
        target: device profile.
        state: finished, or stopped: the same command goes on with what is stored.
        result: what came of it, in a few words.
        stored: results in its store; None where it has none.
    """

    folder: Path
    verb: str
    created: str
    model: str
    target: str
    state: str
    result: str
    stored: int | None


def runs(folder: str | Path = ".") -> tuple[Run, ...]:
    """Return the runs in a folder and up to three levels below, the latest first; candidates of a run are left out.

    Args:
        folder: to look in.

    Raises:
        SpecError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SpecError(f"There is no folder {str(folder)!r}: name one that holds output folders.")
    return tuple(sorted(_find(root, _DEPTH), key=lambda run: (run.created, str(run.folder)), reverse=True))


def _find(folder: Path, depth: int) -> Iterator[Run]:
    if (folder / names.RECORD).is_file() or (folder / STORE).is_file():
        yield _read(folder)
        return
    if depth > 0:
        try:
            below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return
        for path in below:
            yield from _find(path, depth - 1)


def _read(folder: Path) -> Run:
    stored = count_results(folder / STORE) if (folder / STORE).is_file() else None
    if not (folder / names.RECORD).is_file():
        return Run(folder, "", "", "", "", "stopped", "nothing was written yet", stored)
    try:
        record = read_any(folder / names.RECORD)
    except SpecError as error:
        return Run(folder, "", "", "", "", "damaged", str(error), stored)
    is_open = (isinstance(record, AmpRecord) and not record.is_finished) or (
        isinstance(record, AutoRecord) and record.forks[-1].step != "stop"
    )
    state = "stopped" if is_open else "finished"
    source = str(record.model.get("source", ""))
    return Run(folder, record.verb, record.created, source, record.target, state, _result(record), stored)


def _result(record: Record) -> str:
    match record:
        case AutoRecord():
            chosen = next((one for one in record.contenders if one.name == record.chosen), None)
            if chosen is None:
                return f"nothing chosen ({len(record.contenders)} scored)"
            figures = f"{chosen.score:.4g} {record.metric['unit']}".rstrip()
            return (
                f"{'met' if record.is_met else 'not met'}: {chosen.name}, {figures} ({len(record.contenders)} scored)"
            )
        case AmpRecord():
            point = None if record.chosen is None else record.point(record.chosen)
            shares = "" if point is None else ", ".join(f"{share:.0%} {p}" for p, share in point.shares.items())
            return f"{'accepted' if record.is_accepted else 'best'}: {shares} ({record.evaluations} scored)"
        case BaselineRecord():
            return f"accepted: {record.verdict.get('accepted') or 'none'}"
        case LitempRecord():
            step = None if record.accepted is None else record.steps[record.accepted]
            return f"accepted: {f'{step.percent:g} % in {record.high}' if step else 'no percentage'}"
        case AnalysisRecord():
            return "analysis"
    scores = record.scores
    if "quantized" not in scores:
        return ", ".join(record.precision)
    return f"{', '.join(record.precision)}: {scores['quantized']:.4g} {scores['unit']}".rstrip()
