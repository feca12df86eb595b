"""hub.json: what was submitted to Qualcomm AI Hub, and what came of it; on disk as soon as it is known.

A run is found again by the hash of its files, device and options. Each `put` reads the file anew, so that runs of other
processes are kept.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fewbits.deployment.hub import HubDevice, HubJob, HubStatus
from fewbits.deployment.hub_results import OutputMatch, profile_figures
from fewbits.errors import OutputError, SpecError
from fewbits.reporting.record import plain, write_json
from fewbits.runtime.store import key_of

SCHEMA = 1
FAILED = "FAILED"


class HubFile:
    """One run in hub.json.

    Args:
        path: the file; it and its folder are made by the first `put`.
        facts: files, device and options: what tells this run from others.

    Raises:
        SpecError: the file is damaged, or was written by a newer fewbits.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.key = path, key_of("hub", facts)
        fresh = {"key": self.key, **plain(facts), "jobs": {}}
        self._run: dict[str, Any] = next((run for run in _runs(path) if run["key"] == self.key), fresh)

    def get(self, name: str) -> Any:
        """Return what was put under `name`; None where nothing was."""
        return self._run.get(name)

    def put(self, **values: Any) -> None:
        """Keep values of JSON's types under their names.

        Raises:
            OutputError: the file cannot be written.
            SpecError: someone damaged it meanwhile.
        """
        self._run = {**self._run, **plain(values)}
        others = [run for run in _runs(self.path) if run["key"] != self.key]
        document = {"schema": SCHEMA, "runs": [*others, self._run]}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot write to {str(self.path.parent)!r}: {error.strerror or error}. Choose another -o."
            ) from error
        write_json(self.path, document)

    def job(self, kind: str) -> HubJob | None:
        """Return the job of that kind to go on with; None where there is none, or it is known to have failed."""
        entry = self._run["jobs"].get(kind)
        if entry is None or entry.get("status") == FAILED:
            return None
        device = {**entry["device"], "attributes": tuple(entry["device"]["attributes"])}
        return HubJob(entry["id"], entry["url"], HubDevice(**device))

    def is_done(self, kind: str) -> bool:
        """Say whether the job of that kind is known to have ended well."""
        return self._run["jobs"].get(kind, {}).get("status") not in (None, FAILED)

    def put_job(self, kind: str, job: HubJob) -> None:
        """Keep a job that was just submitted."""
        self.put(jobs={**self._run["jobs"], kind: {**asdict(job), "submitted": _now()}})

    def put_status(self, kind: str, status: HubStatus) -> None:
        """Keep how a job ended."""
        end = {"status": status.code if status.is_success else FAILED, "message": status.message, "seen": _now()}
        self.put(jobs={**self._run["jobs"], kind: {**self._run["jobs"][kind], **end}})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _runs(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        newer = int(document["schema"]) > SCHEMA
        runs = [] if newer else [_checked(run) for run in document["runs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise SpecError(
            f"{str(path)!r} cannot be read ({type(error).__name__} {error}), and it holds the ids of submitted jobs: "
            f"mend it, or move it away to submit everything anew."
        ) from error
    if newer:
        raise SpecError(f"{str(path)!r} was written by a newer fewbits: upgrade this one, or choose another -o.")
    return runs


def _checked(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run of which everything that is read later can be read; raise where something cannot."""
    for entry in run["jobs"].values():
        _ = f"{entry['id']}{entry['url']}", HubDevice(**entry["device"]), tuple(entry["device"]["attributes"])
    for match in (run.get("outputs") or {}).values():
        OutputMatch(**match)
    profile_figures(run.get("profile") or {})
    return {**run, "key": str(run["key"])}
