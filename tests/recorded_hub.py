"""A stand-in for the package qai-hub 0.56: its names and signatures, requests noted, answers from recorded_hub.json.

The answers have the shapes that the client documents; none of them came from the service. `test_hub.py` compares the
signatures with those of the real package where that is installed.
"""

import copy
import importlib.machinery
import json
import types
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = json.loads(Path(__file__).with_suffix(".json").read_text())
BOX = "\n┌─────────────────┐\n| {} |\n└─────────────────┘"


class Error(Exception):
    def __init__(self, message):
        super().__init__(message)


class InternalError(Error):
    pass


class UserError(Error):
    pass


@dataclass
class Device:
    name: str = ""
    os: str = ""
    attributes: Any = field(default_factory=list)


@dataclass(frozen=True)
class JobStatus:
    code: str
    message: str | None = None

    @property
    def success(self):
        return self.code == "SUCCESS"

    @property
    def finished(self):
        return self.code in ("SUCCESS", "FAILED")


@dataclass
class Model:
    transport: "Transport"
    model_id: str
    producer: str = ""

    @property
    def metadata(self):
        keys = Enum("ModelMetadataKey", list(self.transport.answers["metadata"]))
        return dict(zip(keys, self.transport.answers["metadata"].values(), strict=True))


@dataclass
class Job:
    transport: "Transport"
    job_id: str
    kind: str
    device: Device

    @property
    def url(self):
        return f"https://hub.example/jobs/{self.job_id}/"

    def get_status(self):
        return JobStatus(*self.transport.state(self.job_id, self.kind))


class CompileJob(Job):
    def get_target_model(self):
        return Model(self.transport, f"target-of-{self.job_id}", self.job_id)


class InferenceJob(Job):
    def download_profile(self, filename=None):
        self.transport.note("download_profile", self.job_id)
        return copy.deepcopy(self.transport.answers["profile"])

    def download_output_data(self, filename=None):
        self.transport.note("download_output_data", self.job_id)
        return self.transport.outputs


@dataclass
class Transport:
    """What the stand-in was asked, and what it answers.

    Attributes:
        requests: (name of the call, its facts), in order.
        answers: as in recorded_hub.json; change them at will.
        outputs: what an inference job gives back.
        failures: kind of job -> why it fails.
        stuck: kinds of jobs that stay in their first state.
        broken: name of the call -> the error that it raises.
        has_token: there is a configuration.
        jobs: id -> job; what the service knows.
    """

    requests: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(ANSWERS))
    outputs: dict[str, list[np.ndarray]] | None = None
    failures: dict[str, str] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    broken: dict[str, Exception] = field(default_factory=dict)
    has_token: bool = True
    jobs: dict[str, Job] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)

    def note(self, call, facts):
        self.requests.append((call, facts))
        if call in self.broken:
            raise self.broken[call]

    def calls(self, *wanted):
        """Return the names of the calls, or the facts of those that are wanted."""
        return [facts for call, facts in self.requests if call in wanted] if wanted else [c for c, _ in self.requests]

    def state(self, job_id, kind):
        self.note("get_status", job_id)
        states = self.answers["states"][kind]
        poll = 0 if kind in self.stuck else self.polls.get(job_id, 0)
        self.polls[job_id] = poll + 1
        code = states[min(poll, len(states) - 1)]
        return ("FAILED", self.failures[kind]) if code == "SUCCESS" and kind in self.failures else (code, None)

    def make(self, kind, device):
        made = CompileJob if kind == "compile" else InferenceJob
        found = self.matching(device.name, device.os)
        if not found:
            raise UserError(f"{device} is not available.")
        job = made(self, f"j{kind}{len(self.jobs)}", kind, found[-1])
        self.jobs[job.job_id] = job
        return job

    def matching(self, name, os):
        known = [Device(**facts) for facts in self.answers["devices"]]
        return [one for one in known if name in ("", one.name) and os in ("", one.os)]

    def package(self):
        """Return the module."""
        transport = self

        class Client(_Client):
            def __init__(self, config=None, profile=None, default_project_id=None, client_mode="library"):
                self._transport = transport

        module = types.ModuleType("qai_hub")
        module.__spec__ = importlib.machinery.ModuleSpec("qai_hub", None)
        module.__version__ = "0.56.0"
        for one in (Client, CompileJob, Device, Error, InferenceJob, InternalError, Job, JobStatus, Model, UserError):
            setattr(module, one.__name__, one)
        return module


class _Client:
    _transport: Transport

    def set_verbose(self, verbose=True):
        if not self._transport.has_token:
            raise UserError("No configuration." + BOX.format("Please ask for a token at https:/ /hub.example."))
        self._transport.note("set_verbose", verbose)

    def get_devices(self, name="", os="", attributes=None):
        self._transport.note("get_devices", (name, os))
        return self._transport.matching(name, os)

    def upload_model(self, model, name=None, project=None):
        path = Path(model)
        files = {one.name: one.read_bytes() for one in (path.iterdir() if path.is_dir() else [path])}
        self._transport.note("upload_model", (path.name, name, files))
        return Model(self._transport, "m1")

    def get_model(self, model_id):
        self._transport.note("get_model", model_id)
        return Model(self._transport, model_id)

    def submit_compile_job(  # noqa: PLR0917 - the client's signature
        self, model, device, name=None, input_specs=None, options="", single_compile=True, calibration_data=None,
        retry=True, project=None,
    ):  # fmt: skip
        self._transport.note("submit_compile_job", (model.model_id, device, name, input_specs, options))
        return self._transport.make("compile", device)

    def submit_inference_job(  # noqa: PLR0917 - the client's signature
        self, model, device, inputs=None, name=None, options="", retry=True, profile=True, project=None
    ):
        print("a client that talks")  # noqa: T201 - as the client does on occasion
        kind = "profile" if profile else "inference"
        self._transport.note(f"submit_{kind}_job", (model.producer, device, inputs))
        return self._transport.make(kind, device)

    def get_job(self, job_id, job_type=None):
        self._transport.note("get_job", job_id)
        if job_id not in self._transport.jobs:
            raise UserError(f"ID '{job_id}' could not be found.")
        return self._transport.jobs[job_id]
