"""Qualcomm AI Hub from outside: what is asked of the service, and the one adapter to its client, the package qai-hub.

Jobs and models are named by their ids throughout, so that a later process can go on where an earlier one stopped. Only
documented names of the client are used (0.56 is known). It was never run against the service: what is here was written
from the client's interface and is tested against a stand-in of the same names and signatures.
"""

import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fewbits.errors import HubError, MissingExtraError

Array = npt.NDArray[Any]
InputSpecs = Mapping[str, tuple[tuple[int, ...], str]]
"""Input name -> (shape, numpy name of its type)."""

_BOX = re.compile(r"[\u2500-\u257f|\s]+")
_TOKEN = (
    "Qualcomm AI Hub needs your token ({}): sign up at https://aihub.qualcomm.com, and store the token of your account "
    "with `qai-hub configure --api_token TOKEN`."
)

_ANEW = " Move hub.json away to submit everything anew."


@dataclass(frozen=True, slots=True)
class HubDevice:
    """A device of the service.

    Attributes:
        name: as the service spells it.
        os: version of its operating system; empty for the newest that there is.
        attributes: what the service says of it, such as chipset:qualcomm-snapdragon-8gen3.
    """

    name: str
    os: str = ""
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HubJob:
    """A submitted job.

    Attributes:
        id: by which it is found again.
        url: its page.
        device: the one that the service chose for it.
    """

    id: str
    url: str
    device: HubDevice


@dataclass(frozen=True, slots=True)
class HubStatus:
    """How far a job is.

    Attributes:
        code: the service's name of the state, such as PROVISIONING_DEVICE.
        is_finished: it will not change any more.
        is_success: it finished well.
        message: why it failed.
    """

    code: str
    is_finished: bool
    is_success: bool
    message: str = ""


class Hub(Protocol):
    """What `submit` asks of the service; every method raises HubError where that fails."""

    @property
    def version(self) -> str:
        """Of the client."""

    def devices(self, name: str = "", os: str = "") -> tuple[HubDevice, ...]:
        """Return the devices of that exact name and OS version; empty text matches all."""

    def upload(self, path: Path, *, name: str) -> str:
        """Upload a model file or folder and return the model's id."""

    def compile(self, model_id: str, device: HubDevice, *, name: str, inputs: InputSpecs, options: str) -> HubJob:
        """Submit a compile job."""

    def profile(self, compile_id: str, device: HubDevice, *, name: str) -> HubJob:
        """Submit a job that measures the compiled model on random inputs."""

    def infer(self, compile_id: str, device: HubDevice, feeds: Mapping[str, list[Array]], *, name: str) -> HubJob:
        """Submit a job that runs the compiled model on `feeds`: input name -> one array per run."""

    def status(self, job_id: str) -> HubStatus:
        """Return how far a job is."""

    def target_versions(self, compile_id: str) -> dict[str, str]:
        """Return what the compiled model says of the tools that made it; empty where it says nothing."""

    def read_profile(self, job_id: str) -> dict[str, Any]:
        """Return what a finished profile job measured: execution_summary and execution_detail."""

    def read_outputs(self, job_id: str) -> dict[str, list[Array]]:
        """Return output name -> one array per run of a finished inference job, in the order of the outputs."""


def need_hub() -> None:
    """Raise what the user needs to know where the client is missing.

    Raises:
        MissingExtraError: qai-hub is not installed.
    """
    if importlib.util.find_spec("qai_hub") is None:
        raise MissingExtraError("The client of Qualcomm AI Hub is not installed: pip install 'fewbits[hub]'.")


class QaiHub:
    """A `Hub` that speaks through the package qai-hub, with the token that `qai-hub configure` stored.

    Raises:
        MissingExtraError: qai-hub is not installed, or cannot be imported.
        HubError: there is no token.
    """

    def __init__(self) -> None:
        need_hub()
        try:
            import qai_hub
        except ImportError as error:
            raise MissingExtraError(
                f"The client of Qualcomm AI Hub cannot be imported ({_words(error)}): pip install -U 'fewbits[hub]'."
            ) from error
        self._package: Any = qai_hub
        self._jobs: dict[str, Any] = {}
        self._models: dict[str, Any] = {}
        try:
            self._client: Any = qai_hub.Client()
            self._client.set_verbose(False)  # reads the configuration, and keeps the client's prints off stdout
        except Exception as error:  # no file, a file without a token, one that is no configuration at all
            raise HubError(_TOKEN.format(_words(error))) from error

    @property
    def version(self) -> str:
        """Of the client."""
        return str(self._package.__version__)

    def devices(self, name: str = "", os: str = "") -> tuple[HubDevice, ...]:
        """Return the devices of that exact name and OS version; empty text matches all."""
        with self._asked("list devices"):
            return tuple(_device(found) for found in self._client.get_devices(name=name, os=os))

    def upload(self, path: Path, *, name: str) -> str:
        """Upload a model file or folder and return the model's id."""
        with self._asked(f"take the model {path.name!r}"):
            model = self._client.upload_model(str(path), name=name)
            self._models[str(model.model_id)] = model
            return str(model.model_id)

    def compile(self, model_id: str, device: HubDevice, *, name: str, inputs: InputSpecs, options: str) -> HubJob:
        """Submit a compile job."""
        if model_id not in self._models:
            with self._asked(f"find the uploaded model {model_id}", way_out=_ANEW):
                self._models[model_id] = self._client.get_model(model_id)
        with self._asked("compile the model"):
            job = self._client.submit_compile_job(
                self._models[model_id],
                self._package.Device(device.name, device.os),
                name=name,
                input_specs=dict(inputs),
                options=options,
                retry=False,
            )
            return self._known(job)

    def profile(self, compile_id: str, device: HubDevice, *, name: str) -> HubJob:
        """Submit a job that measures the compiled model on random inputs."""
        return self._run(compile_id, device, name=name, feeds=None)

    def infer(self, compile_id: str, device: HubDevice, feeds: Mapping[str, list[Array]], *, name: str) -> HubJob:
        """Submit a job that runs the compiled model on `feeds`: input name -> one array per run."""
        return self._run(compile_id, device, name=name, feeds=dict(feeds))

    def _run(self, compile_id: str, device: HubDevice, *, name: str, feeds: dict[str, list[Array]] | None) -> HubJob:
        what = "profile" if feeds is None else "run"
        target = self._target(compile_id)
        with self._asked(f"{what} the compiled model"):
            job = self._client.submit_inference_job(
                target,
                self._package.Device(device.name, device.os),
                inputs=feeds,
                name=name,
                retry=False,
                profile=feeds is None,
            )
            return self._known(job)

    def status(self, job_id: str) -> HubStatus:
        """Return how far a job is."""
        job = self._job(job_id)
        with self._asked(f"say how far job {job_id} is"):
            found = job.get_status()
            return HubStatus(str(found.code), bool(found.finished), bool(found.success), str(found.message or ""))

    def target_versions(self, compile_id: str) -> dict[str, str]:
        """Return what the compiled model says of the tools that made it; empty where it says nothing."""
        # a remark in the report: a failure to read it must not cost the measurement
        with contextlib.suppress(HubError):
            target = self._target(compile_id)
            with self._asked("describe the compiled model"):
                return {str(key.name): str(value) for key, value in target.metadata.items()}
        return {}

    def read_profile(self, job_id: str) -> dict[str, Any]:
        """Return what a finished profile job measured: execution_summary and execution_detail."""
        job = self._job(job_id)
        with self._asked(f"hand over the profile of job {job_id}"):
            return dict(job.download_profile())

    def read_outputs(self, job_id: str) -> dict[str, list[Array]]:
        """Return output name -> one array per run of a finished inference job, in the order of the outputs."""
        job = self._job(job_id)
        with self._asked(f"hand over the outputs of job {job_id}"):
            found = job.download_output_data() or {}
            return {str(name): [np.asarray(array) for array in arrays] for name, arrays in found.items()}

    def _job(self, job_id: str) -> Any:
        if job_id not in self._jobs:
            with self._asked(f"find job {job_id}", way_out=_ANEW):
                self._jobs[job_id] = self._client.get_job(job_id)
        return self._jobs[job_id]

    def _known(self, job: Any) -> HubJob:
        self._jobs[str(job.job_id)] = job
        return HubJob(str(job.job_id), str(job.url), _device(job.device))

    def _target(self, compile_id: str) -> Any:
        job = self._job(compile_id)
        with self._asked(f"hand over the model of job {compile_id}"):
            target = job.get_target_model()
        if target is None:
            raise HubError(f"Qualcomm AI Hub holds no compiled model of job {compile_id}: see {job.url}.")
        return target

    @contextlib.contextmanager
    def _asked(self, what: str, *, way_out: str = "") -> Iterator[None]:
        """Say in one sentence what went wrong; what the client prints goes to stderr."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except self._package.UserError as error:
            if "authenticate" in str(error):
                raise HubError(_TOKEN.format(_words(error))) from error
            raise HubError(f"Qualcomm AI Hub refused to {what}: {_words(error)}.{way_out}") from error
        except Exception as error:  # the client lets errors of requests, botocore and the disk through
            raise HubError(
                f"Qualcomm AI Hub could not {what}: {_words(error)}. Call again to go on; submitted jobs are kept."
            ) from error


def _device(found: Any) -> HubDevice:
    attributes = [found.attributes] if isinstance(found.attributes, str) else found.attributes
    return HubDevice(str(found.name), str(found.os), tuple(str(one) for one in attributes))


def _words(error: BaseException) -> str:
    """Return a message as one line: the client draws boxes around its advice, which is left out."""
    text = _BOX.sub(" ", str(error)).split(" Please ")[0].strip().rstrip(".")
    return text[:300] or type(error).__name__
