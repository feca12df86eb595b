"""The jobs of one run on Qualcomm AI Hub: each is submitted once, noted in hub.json at once, and waited for."""

import difflib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from fewbits.artifact.folder import temporary_folder
from fewbits.artifact.samples import Samples
from fewbits.deployment.hub import Array, Hub, HubDevice, HubJob, HubStatus
from fewbits.deployment.hub_results import DeviceProfile, OutputMatch, match_outputs, profile_figures
from fewbits.errors import FewbitsError, HubError, RefusedError
from fewbits.reporting.record import versions
from fewbits.workflow.hub_file import HubFile
from fewbits.workflow.hub_upload import Upload, pack
from fewbits.workflow.stages import Stages

POLL_S = 10.0
COMPILE, PROFILE, INFERENCE = "compile", "profile", "inference"


@dataclass(slots=True)
class HubJobs:
    """What is asked of the service for one run, step by step; what hub.json holds already is not asked again.

    Attributes:
        hub: the service.
        book: the run in hub.json.
        stages: told of each state of each job.
        device: as the user named it.
        name: of the model and the jobs on the service.
        time_limit_s: for each job.
        jobs: kind -> job, of this call.
        resumed: kinds whose job was in hub.json.
    """

    hub: Hub
    book: HubFile
    stages: Stages
    device: HubDevice
    name: str
    time_limit_s: float
    jobs: dict[str, HubJob] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)

    def compile(self, upload: Upload) -> None:
        """Upload and compile the model, and note with which tools.

        Raises:
            HubError: no such device, the service cannot be reached, or the time limit was reached.
            RefusedError: the job failed.
        """
        self._finished(COMPILE, lambda: self._submit_compile(upload))
        if self.book.get("versions") is None:
            tools = self.hub.target_versions(self.jobs[COMPILE].id)
            self.book.put(versions={**versions(), "qai-hub": self.hub.version, **tools})

    def profile(self) -> DeviceProfile:
        """Return what the device measured.

        Raises:
            HubError: the job failed, the service cannot be reached, or the time limit was reached.
        """
        submit = self.hub.profile
        job = self._finished(PROFILE, lambda: submit(self.jobs[COMPILE].id, self.device, name=self.name))
        if self.book.get("profile") is None:
            with self.stages.stage("fetch profile"):
                self.book.put(profile=self.hub.read_profile(job.id))
        return profile_figures(self.book.get("profile"))

    def compare(self, stored: Samples, feeds: Mapping[str, list[Array]]) -> dict[str, OutputMatch]:
        """Return how far the device's outputs are from the stored ones.

        Args:
            stored: what the sim answered.
            feeds: the same inputs, as the compiled model takes them.

        Raises:
            HubError: the job failed, the service cannot be reached, or the time limit was reached.
        """
        submit = self.hub.infer
        job = self._finished(INFERENCE, lambda: submit(self.jobs[COMPILE].id, self.device, feeds, name=self.name))
        if self.book.get("outputs") is None:
            with self.stages.stage("fetch outputs"):
                matches = match_outputs(stored.outputs, self.hub.read_outputs(job.id))
            self.book.put(outputs={name: asdict(match) for name, match in matches.items()})
        return {name: OutputMatch(**match) for name, match in self.book.get("outputs").items()}

    def _submit_compile(self, upload: Upload) -> HubJob:
        model_id = self.book.get("model_id")
        if model_id is None:
            with self.stages.stage("find device"):
                _check_device(self.hub, self.device)
            with self.stages.stage("upload"), temporary_folder() as scratch:
                model_id = self.hub.upload(pack(upload, scratch, name=self.name), name=self.name)
            self.book.put(model_id=model_id)
        return self.hub.compile(model_id, self.device, name=self.name, inputs=upload.inputs, options=upload.options)

    def _finished(self, kind: str, submit: Callable[[], HubJob]) -> HubJob:
        job = self.book.job(kind)
        if job is None:
            job = submit()
            self.book.put_job(kind, job)
        else:
            self.resumed.append(kind)
        self.jobs[kind] = job
        if not self.book.is_done(kind):
            status = self._wait(kind, job)
            self.book.put_status(kind, status)
            if not status.is_success:
                if kind == COMPILE:
                    self.book.put(model_id=None)  # the upload may be what was wrong
                raise _failed(kind, job, status)
        return job

    def _wait(self, kind: str, job: HubJob) -> HubStatus:
        """Ask again and again; every state of the job is a stage of its own."""
        begin, status = time.monotonic(), self.hub.status(job.id)
        while not status.is_finished:
            code = status.code
            with self.stages.stage(f"{kind} job: {_words(code)}"):
                while not status.is_finished and status.code == code:
                    left = self.time_limit_s - (time.monotonic() - begin)
                    if left <= 0:
                        raise HubError(
                            f"The {kind} job {job.id} on Qualcomm AI Hub is still at {_words(code)!r} after "
                            f"{self.time_limit_s:g} s: call again to go on waiting, or allow more with --time-limit."
                        )
                    time.sleep(min(POLL_S, left))
                    status = self.hub.status(job.id)
        return status


def _words(code: str) -> str:
    return code.lower().replace("_", " ")


def _failed(kind: str, job: HubJob, status: HubStatus) -> FewbitsError:
    reason = " ".join(status.message.split()).rstrip(".") or "it gave no reason"
    sentence = (
        f"The {kind} job {job.id} on Qualcomm AI Hub failed: {reason}. See {job.url}; calling again submits it anew."
    )
    return RefusedError(sentence) if kind == COMPILE else HubError(sentence)


def _check_device(hub: Hub, device: HubDevice) -> None:
    """Refuse a device that the service does not have, and name those that come close."""
    if hub.devices(device.name, device.os):
        return
    if same := hub.devices(device.name):
        systems = ", ".join(sorted({other.os for other in same}))
        raise HubError(f"Qualcomm AI Hub has {device.name!r} with OS {systems}, not {device.os!r}: mend --device-os.")
    known = sorted({other.name for other in hub.devices()})
    near = difflib.get_close_matches(device.name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(name) for name in near)}?" if near else f"it has {len(known)} others."
    raise HubError(f"Qualcomm AI Hub has no device {device.name!r} (`qai-hub list-devices` lists them): {hint}")
