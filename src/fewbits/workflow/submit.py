"""Verb submit: compile, profile and run an artifact on a real device of Qualcomm AI Hub.

Comes in: the output folder of a run. Goes out: hub.json with the ids of all jobs, what the device measured, and how far
its outputs are from those of the scored sim. It was never run against the service: see `deployment/hub.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.samples import read_samples
from fewbits.deployment.hub import Hub, HubDevice, HubJob, QaiHub, need_hub
from fewbits.deployment.hub_results import DeviceProfile, OutputMatch
from fewbits.errors import SpecError
from fewbits.reporting.record import read_record
from fewbits.workflow.hub_file import HubFile
from fewbits.workflow.hub_jobs import PROFILE, HubJobs
from fewbits.workflow.hub_upload import RUNTIMES, checked_files, device_feeds, plan_upload
from fewbits.workflow.stages import Stages, Watcher

TIME_LIMIT_S = 3600.0

_NEVER_RUN = (
    "That this verb works with the service: it was tested with a stand-in for the client, and never run against the "
    "service itself."
)
_NOT_SHOWN = (
    "The latency in your program: the model alone was timed, again and again, on random inputs.",
    "In which type each operator runs on the device: the profile names compute units only.",
)
_SAMPLES_ONLY = "The score on the device: only the stored samples ran there."
_NO_INFERENCE = "What the device answers: no inference job was asked for."
_AIMET = (
    "The file that was scored: the converter applied its encodings to the float model, whose biases are not corrected."
)


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """What came back from the device.

    Attributes:
        device: the one that was profiled.
        upload: qdq or aimet.
        options: of the compile job.
        jobs: kind -> job.
        resumed: kinds whose job an earlier call had submitted.
        profile: latency, memory, compute units.
        outputs: output -> the device against the sim; empty without inference.
        samples: how many were run.
        versions: of fewbits, the client, and the tools that compiled the model.
        not_shown: what all this does not prove.
        path: of hub.json.
        seconds: stage -> wall time, waiting included.
    """

    device: HubDevice
    upload: str
    options: str
    jobs: Mapping[str, HubJob]
    resumed: tuple[str, ...]
    profile: DeviceProfile
    outputs: Mapping[str, OutputMatch]
    samples: int
    versions: Mapping[str, str]
    not_shown: tuple[str, ...]
    path: Path
    seconds: Mapping[str, float]


def submit(
    run: str | Path,
    *,
    device: str,
    device_os: str = "",
    upload: str = "qdq",
    runtime: str = RUNTIMES[0],
    dims: Mapping[str, int] | None = None,
    inference: bool = True,
    time_limit_s: float = TIME_LIMIT_S,
    output: str | Path | None = None,
    client: Hub | None = None,
    progress: Watcher | None = None,
) -> SubmitResult:
    """Compile, profile and run an artifact on a device of Qualcomm AI Hub; its files and stored samples are uploaded.

    The id of each job is in hub.json as soon as the job is submitted. A call with the same files, device and options
    goes on with these jobs; only one that failed is submitted again.

    Args:
        run: output folder of `quantize` or a later verb.
        device: exact name, such as "Samsung Galaxy S24".
        device_os: version of its operating system; left out: the newest.
        upload: qdq, the artifact; or aimet, the float companion with its encodings.
        runtime: what to compile for; see `hub_upload.RUNTIMES`.
        dims: open dimension -> size; the service needs all of them.
        inference: run the stored samples and compare.
        time_limit_s: to wait for each job, the queue included.
        output: folder for hub.json; None is `run`.
        client: the service; None is the package qai-hub.
        progress: told of each stage.

    Raises:
        MissingExtraError: qai-hub is not installed.
        SpecError: the folder holds no record, an option cannot be, or hub.json is damaged.
        OutputError: a file is not the recorded one, or hub.json cannot be written.
        RefusedError: the compile job failed.
        HubError: no token, no such device, no network, another job failed, or the time limit was reached.
    """
    if not device.strip():
        raise SpecError("No device is named: write one that `qai-hub list-devices` lists.")
    if client is None:
        need_hub()
    folder, stages = Path(run), Stages(progress)
    with stages.stage("check files"):
        record = read_record(folder / names.RECORD)
        parcel = plan_upload(folder, record, kind=upload, runtime=runtime, dims=dims)
        files = {**parcel.files, **checked_files(folder, record, [names.SAMPLES])}
        stored = read_samples(folder / names.SAMPLES)
        feeds = device_feeds(stored.feeds, parcel) if inference else {}
    asked = {"device": device, "device_os": device_os, "upload": upload, "options": parcel.options}
    path = Path(folder if output is None else output) / names.HUB
    book = HubFile(path, {"asked": asked, "files": files, "inputs": parcel.inputs})
    name = folder.resolve().name or "model"
    jobs = HubJobs(client or QaiHub(), book, stages, HubDevice(device, device_os), name, time_limit_s)
    jobs.compile(parcel)
    profile = jobs.profile()
    outputs = jobs.compare(stored, feeds) if inference else {}
    ran = _SAMPLES_ONLY if inference else _NO_INFERENCE
    not_shown = (_NEVER_RUN, ran, *_NOT_SHOWN, *((_AIMET,) if upload == "aimet" else ()))
    book.put(figures=asdict(profile), not_shown=not_shown)
    return SubmitResult(
        device=jobs.jobs[PROFILE].device,
        upload=upload,
        options=parcel.options,
        jobs=jobs.jobs,
        resumed=tuple(jobs.resumed),
        profile=profile,
        outputs=outputs,
        samples=len(stored.feeds) if inference else 0,
        versions=book.get("versions"),
        not_shown=not_shown,
        path=path,
        seconds=stages.seconds,
    )
