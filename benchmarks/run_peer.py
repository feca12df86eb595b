"""Run one task of a peer in its own environment and read its answer."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent / "peers"


def run_peer(peer: str, task: str, **options: object) -> dict[str, Any]:
    """Return what `peers/<peer>_peer.py task --option value ...` answers, or {"missing": why}.

    Raises:
        RuntimeError: the peer failed; the message ends with its last lines.
    """
    python = PEERS / ".venvs" / peer / "bin" / "python"
    if not python.exists():
        return {"missing": f"run benchmarks/peers/setup.sh {peer}"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answer.json"
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        command = [str(python), str(PEERS / f"{peer}_peer.py"), task, *words, "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer} {task} failed:\n{done.stderr[-1500:]}")
        answer: dict[str, Any] = json.loads(output.read_text())
        return answer
