"""Run models in a process of their own: `python -m fewbits.deployment.worker JOB_FOLDER`.

In: job.json (models and policies) and feeds.npz. Out: one <number>.npz of outputs per job. Nothing else is shared with
the process that asks, so that what comes out depends on the files alone.
"""

import json
import sys
from pathlib import Path

from fewbits.artifact.samples import pack_runs, unpack_runs
from fewbits.errors import FewbitsError
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session

JOB, FEEDS = "job.json", "feeds.npz"


def run_jobs(folder: Path) -> None:
    """Carry out what the folder asks for.

    Raises:
        FewbitsError: a model cannot be loaded or run.
    """
    document = json.loads((folder / JOB).read_text(encoding="utf-8"))
    feeds = unpack_runs((folder / FEEDS).read_bytes())["feeds"]
    options = RunOptions(document["provider"], document["threads"], tuple(document["libraries"]))
    for number, job in enumerate(document["jobs"]):
        runner = open_session(job["model"], policy=SessionPolicy(job["policy"]), options=options)
        outputs = [runner(one) for one in feeds]
        del runner  # before the next is loaded
        (folder / f"{number}.npz").write_bytes(pack_runs({"outputs": outputs}))


def main() -> int:
    """Run the job named on the command line; return the exit code."""
    try:
        run_jobs(Path(sys.argv[1]))
    except FewbitsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
