"""The latency of the models of a run: measured here, estimated by Qualcomm's compiler, or what the user measured."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.artifact import names
from fewbits.artifact.folder import write_file
from fewbits.deployment.qnn import need_qnn
from fewbits.errors import SpecError
from fewbits.reporting.auto_record import AutoRecord, Contender
from fewbits.reporting.read import read_any
from fewbits.workflow.compile import dims_of, estimate
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_models import QNN_ESTIMATE, parse_cost
from fewbits.workflow.cost_profiles import remembered_time
from fewbits.workflow.score_memory import artifact_hash

LATENCIES = "latency.json"
"""What the user measured, by name of the model and content of its file, in a run's folder."""
ORT, DEVICE = "ort", "device"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def parse_latency(text: float | str) -> float:
    """Return the milliseconds of 2, "2ms", "800us" or "0.1s".

    >>> parse_latency("800us"), parse_latency("2"), parse_latency("0.1s")
    (0.8, 2.0, 100.0)

    Raises:
        SpecError: it is no latency.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(us|ms|s|)\s*", str(text).lower())
    value = 0.0 if match is None else float(match[1]) * _UNITS[match[2] or "ms"]
    if not 0 < value < math.inf:
        raise SpecError(f"The latency {str(text)!r} is none: write 2ms, 800us or 0.1s.")
    return value


def check_latency_by(text: str) -> str:
    """Return who tells latencies, checked: ort, device, or qnn-estimate:CHIP.

    Raises:
        SpecError: there is no such.
        MissingExtraError: Qualcomm's compiler is not installed.
    """
    if text in (ORT, DEVICE):
        return text
    if text.partition(":")[0] == QNN_ESTIMATE:
        parse_cost(text)
        need_qnn()
        return text
    raise SpecError(f"--latency-by is {ORT}, {QNN_ESTIMATE}:CHIP or {DEVICE}, not {text!r}.")


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """Who tells latencies in one run.

    Attributes:
        by: ort, device or qnn-estimate:CHIP; None tells none.
        folder: of the run.
        context: a sample, how models run, and the store that remembers what was measured on this machine.
    """

    by: str | None
    folder: Path
    context: CostContext

    def latency_ms(self, made: Contender) -> float | None:
        """Return the milliseconds of one sample; None where nothing tells them.

        Raises:
            FewbitsError: the model cannot be run or compiled.
        """
        if self.by is None or made.folder is None:
            return None
        if self.by == DEVICE:
            return read_latencies(self.folder, [made]).get(made.name)
        path, feeds = self.folder / made.folder, self.context.feeds
        if self.by == ORT:
            return remembered_time(self.context, path / names.ARTIFACT, feeds) / 1e3
        dims = dims_of(path / names.ARTIFACT, feeds)
        return estimate(path, soc=self.by.partition(":")[2], dims=dims).estimate.latency_us / 1e3


def read_latencies(run: Path, contenders: Iterable[Contender]) -> Mapping[str, float]:
    """Return the latencies in milliseconds that the user gave, by name of the model.

    Args:
        run: folder of the run.
        contenders: whose latencies are wanted; what was measured of other files under the same name does not count.

    Raises:
        SpecError: the file is damaged.
    """
    known = _read(run / LATENCIES)
    hashes = {m.name: artifact_hash(run / m.folder) for m in contenders if m.folder is not None and m.name in known}
    return {name: known[name][0] for name, content in hashes.items() if known[name][1] == content}


def _read(path: Path) -> Mapping[str, tuple[float, str]]:
    """Return name -> milliseconds, content hash of the artifact."""
    if not path.is_file():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (float(item["ms"]), str(item["artifact"])) for name, item in found.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise SpecError(f"{str(path)!r} cannot be read: delete it, and give the figures again.") from error


def latency(run: str | Path, name: str, value: float | str) -> Mapping[str, float]:
    """Put down what a model of a run took on the device; `fewbits auto --resume` goes on from there.

    Args:
        run: output folder of `auto`.
        name: of the model, as the run's table has it.
        value: 1.7 (milliseconds), "1.7ms", "800us".

    Returns:
        All figures in milliseconds by name, of the models that the run has now.

    Raises:
        SpecError: the folder is no such run, or has no such model; or it is no latency.
        OutputError: the figure cannot be written.
    """
    folder = Path(run)
    record = read_any(folder / names.RECORD)
    if not isinstance(record, AutoRecord):
        raise SpecError(f"{str(run)!r} is a run of `{record.verb}`: name the output folder of `fewbits auto`.")
    known = {made.name: made.folder for made in record.contenders if made.folder is not None}
    if name not in known:
        raise SpecError(f"{str(run)!r} has no model {name!r}: it has {', '.join(known)}.")
    found = {key: {"ms": ms, "artifact": content} for key, (ms, content) in _read(folder / LATENCIES).items()}
    found[name] = {"ms": parse_latency(value), "artifact": artifact_hash(folder / known[name])}
    write_file(folder / LATENCIES, (json.dumps(found, indent=1) + "\n").encode())
    return read_latencies(folder, record.contenders)
