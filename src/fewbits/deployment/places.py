"""Places where an artifact can run beside ONNX Runtime's CPU, each in a process of its own: one row a place.

qnn-htp     Qualcomm's emulator of the HTP (extra qnn)
openvino    OpenVINO on the CPU (extra openvino)
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fewbits.deployment.qnn import QnnJob, emulated, need_qnn
from fewbits.deployment.served import Served
from fewbits.errors import MissingExtraError, ModelError
from fewbits.spec.soc import Soc


@dataclass(frozen=True, slots=True)
class PlaceJob:
    """One model for one place.

    Attributes:
        model: the ONNX file.
        dims: open dimension -> size.
        soc: the chip, where the place is one of Qualcomm's.
        folder: empty, for what the place leaves behind.
        time_limit_s: for loading the model, and for every answer.
    """

    model: Path
    dims: Mapping[str, int]
    soc: Soc
    folder: Path
    time_limit_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where models run.

    Attributes:
        name: as on the command line.
        what: as the certificate calls it.
        need: raises where its extra is missing.
        open: lends a model: call it with feeds.
        is_htp: the compiled types can be checked, and the device is not here.
        package: whose version counts.
    """

    name: str
    what: str
    need: Callable[[], None]
    open: Callable[[PlaceJob], AbstractContextManager[Served]]
    is_htp: bool
    package: str


def _need_openvino() -> None:
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("OpenVINO is not installed: pip install 'fewbits[openvino]'.")


@contextmanager
def _open_openvino(job: PlaceJob) -> Iterator[Served]:
    def failed(code: int, said: str) -> ModelError:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        reason = lines[-1].rstrip(".") if lines else f"the process ended with {code}"
        return ModelError(f"OpenVINO cannot run {job.model.name!r}: {reason}.")

    module, path = "fewbits.deployment.openvino_worker", str(job.model.resolve())
    with Served(module, [path], time_limit_s=job.time_limit_s, what="OpenVINO", failed=failed) as served:
        yield served


@contextmanager
def _open_htp(job: PlaceJob) -> Iterator[Served]:
    qnn = QnnJob(job.model, job.soc, job.dims)
    with emulated(qnn, job.folder, time_limit_s=job.time_limit_s) as served:
        yield served


PLACES: Mapping[str, Place] = MappingProxyType(
    {
        place.name: place
        for place in (
            Place("qnn-htp", "Qualcomm's emulator of the HTP", need_qnn, _open_htp, True, "onnxruntime-qnn"),
            Place("openvino", "OpenVINO on the CPU", _need_openvino, _open_openvino, False, "openvino"),
        )
    }
)


def place_names() -> Sequence[str]:
    """Return the names of all places."""
    return tuple(PLACES)
