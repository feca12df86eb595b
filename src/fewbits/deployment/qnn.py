"""Qualcomm's backend from outside: one job, one process with a time limit, and what came of it."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from fewbits.artifact.folder import write_file
from fewbits.deployment.fresh import environment
from fewbits.deployment.qnn_worker import JOB
from fewbits.deployment.served import Served
from fewbits.errors import MissingExtraError, ModelError, RefusedError
from fewbits.spec.soc import Soc

TIME_LIMIT_S = 600.0
Task = Literal["compile", "dlc"]
_WORKER = "fewbits.deployment.qnn_worker"

_UNSUPPORTED = re.compile(r"\{ name: ([^,}]+), type: (\w+) \}")
_NOT_SELECTED = re.compile(r"Node '([^']+?)(?:_token_\d+)?' OpType:(\w+)[^\n]*was not selected")
_SETUP = re.compile(r"SetupBackend failed ([^\n]+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class QnnJob:
    """One model for one chip.

    Attributes:
        model: the ONNX file.
        soc: the chip.
        dims: open dimension -> size; the compiler needs them all.
    """

    model: Path
    soc: Soc
    dims: Mapping[str, int]


def need_qnn() -> None:
    """Raise what the user needs to know where Qualcomm's backend is missing.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
    """
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise MissingExtraError(
            "Qualcomm's compiler and emulator are not installed: pip install 'fewbits[qnn]' (x86-64 Linux or Windows; "
            "installing it accepts Qualcomm's licence)."
        )


def run_qnn(job: QnnJob, task: Task, folder: Path, *, time_limit_s: float = TIME_LIMIT_S) -> float:
    """Carry out one job and return the seconds that it took; its files are left in `folder`.

    Args:
        job: model, chip and sizes.
        task: compile to a context binary, or write a DLC.
        folder: empty; see `qnn_worker` for what it holds afterwards.
        time_limit_s: the process is ended after it.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        RefusedError: the compiler does not take the model; the message names the nodes.
        ModelError: the process crashed or took too long.
    """
    need_qnn()
    _write_job(job, task, folder)
    begin = perf_counter()
    command = [sys.executable, "-P", "-m", _WORKER, str(folder)]
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, errors="replace", check=False,
            timeout=time_limit_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"Qualcomm's compiler took longer than {time_limit_s:g} s for {job.soc.name}: allow more with --time-limit."
        ) from None
    if done.returncode:
        raise _failed(job, done.returncode, _COLOURS.sub("", done.stderr))
    return perf_counter() - begin


@contextmanager
def emulated(job: QnnJob, folder: Path, *, time_limit_s: float = TIME_LIMIT_S) -> Iterator[Served]:
    """Lend a model on the HTP emulator: call it with feeds; the graph that was compiled is left in `folder`.

    Args:
        job: model, chip and sizes.
        folder: empty.
        time_limit_s: for compiling, and for every answer.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        RefusedError: the compiler does not take the model; the message names the nodes.
        ModelError: the process crashed or took too long.
    """
    need_qnn()
    _write_job(job, "run", folder)
    served = Served(
        _WORKER, [str(folder)], time_limit_s=time_limit_s, what=f"Qualcomm's emulator of {job.soc.name}",
        failed=lambda code, said: _failed(job, code, _COLOURS.sub("", said)),
    )  # fmt: skip
    with served:
        yield served


def _write_job(job: QnnJob, task: str, folder: Path) -> None:
    document = {"model": str(job.model.resolve()), "soc": job.soc.id, "dims": dict(job.dims), "task": task}
    write_file(folder / JOB, json.dumps(document).encode())


def _failed(job: QnnJob, code: int, said: str) -> ModelError:
    found = dict([*_UNSUPPORTED.findall(said), *_NOT_SELECTED.findall(said)])
    nodes = tuple(
        (name, op) for name, op in found.items() if op not in ("DequantizeLinear", "QuantizeLinear")
    ) or tuple(found.items())
    if nodes:
        shown = ", ".join(f"{op} {name!r}" for name, op in nodes[:5])
        more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
        return RefusedError(
            f"Qualcomm's compiler for {job.soc.name} (HTP {job.soc.htp}) does not take {shown}{more}: quantize with "
            f"--target {job.soc.target}, or give these nodes another precision with --profile.",
            nodes,
        )
    if setup := _SETUP.search(said):
        return ModelError(f"Qualcomm's backend for {job.soc.name} could not be set up: {setup[1].strip().rstrip('.')}.")
    if "assigned to the default CPU EP" in said:
        return RefusedError(
            f"Qualcomm's compiler for {job.soc.name} left nodes to the CPU and did not say which: fix every open "
            f"dimension with --dim, as in --dim batch=1."
        )
    lines = [line for line in said.strip().splitlines() if line.strip() and "LIBNATIVE" not in line]
    reason = lines[-1].strip().rstrip(".") if lines else f"the process ended with {code}"
    return ModelError(f"Qualcomm's compiler for {job.soc.name} failed: {reason}.")
