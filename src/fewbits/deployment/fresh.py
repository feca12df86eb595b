"""Ask a fresh process what models answer."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact.folder import temporary_folder, write_file
from fewbits.artifact.samples import Arrays, pack_runs, unpack_runs
from fewbits.deployment.worker import FEEDS, JOB
from fewbits.errors import ModelError
from fewbits.runtime.session import RunOptions, SessionPolicy

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Job:
    """One model to load under one policy."""

    model: Path
    policy: SessionPolicy


def run_fresh(jobs: Sequence[Job], feeds: Sequence[Arrays], *, options: RunOptions) -> list[tuple[Arrays, ...]]:
    """Return, per job, the outputs for every feed, computed in a process that shares only files with this one.

    Raises:
        ModelError: the process failed; its last words are in the message.
        OutputError: there is no room for temporary files.
    """
    with temporary_folder() as folder:
        document = {
            "provider": options.provider,
            "threads": options.threads,
            "libraries": [str(path) for path in options.libraries()],
            "jobs": [{"model": str(job.model.resolve()), "policy": job.policy.value} for job in jobs],
        }
        write_file(folder / JOB, json.dumps(document).encode())
        write_file(folder / FEEDS, pack_runs({"feeds": feeds}))
        _run_worker(folder)
        return [unpack_runs((folder / f"{i}.npz").read_bytes())["outputs"] for i in range(len(jobs))]


def environment() -> dict[str, str]:
    """Return the environment of a process that imports this very package."""
    path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def _run_worker(folder: Path) -> None:
    # -P: the user's folder is not on the path, so that no file of theirs stands for a library
    command = [sys.executable, "-P", "-m", "fewbits.deployment.worker", str(folder)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise ModelError(f"The model could not be run in a fresh process: {last}")
