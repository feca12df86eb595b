"""Run one task of a peer in its own environment and read its answer."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent / "peers"


class PeerError(RuntimeError):
    """A peer's process ended badly; a negative `status` is the signal that ended it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run_peer(peer: str, task: str, **options: object) -> dict[str, Any]:
    """Return what `peers/<peer>_peer.py task --option value ...` answers, or {"missing": why}.

    A list is an option with several values. There is no time limit: the process may be paused. A second script of a
    peer, such as "aimet_amp", runs in its environment.

    Raises:
        PeerError: the peer failed; the message ends with its last lines.
    """
    environment = peer.partition("_")[0]
    python = PEERS / ".venvs" / environment / "bin" / "python"
    if not python.exists():
        return {"missing": f"run benchmarks/peers/setup.sh {environment}"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answer.json"
        words = [w for k, v in options.items() for w in (f"--{k}", *map(str, v if isinstance(v, list) else [v]))]
        command = [str(python), str(PEERS / f"{peer}_peer.py"), task, *words, "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"{peer} {task} failed:\n{done.stderr[-1500:]}", done.returncode)
        answer: dict[str, Any] = json.loads(output.read_text())
        return answer
