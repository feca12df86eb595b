"""Run one job of Qualcomm's backend in a process of its own: `python -m fewbits.deployment.qnn_worker JOB_FOLDER`.

In: job.json (model, chip, sizes of open dimensions, what to do); feeds on stdin where it is to run. Out: the context
binary, the compiled graph as JSON and the profile as CSV; answers on stdout (see `frames`). The provider does not tear
down cleanly, and a compiler may crash: the process that asks stays out of it. Documented session and provider options
only.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

JOB, CONTEXT, PROFILE, GRAPHS = "job.json", "context.onnx", "profile.csv", "graphs"
_PROVIDER = "QNNExecutionProvider"


def run_job(folder: Path) -> None:
    """Carry out what the folder asks for; whatever the provider raises comes out."""
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    from fewbits.deployment.frames import answer_feeds, take_stdout

    out = take_stdout()
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    ort.register_execution_provider_library(_PROVIDER, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER][:1]
    options = _session_options(ort, folder, job)
    options.add_provider_for_devices(devices, _provider_options(qnn, folder, job))
    session = ort.InferenceSession(job["model"], sess_options=options)
    if job["task"] == "run":
        names = [output.name for output in session.get_outputs()]
        answer_feeds(lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True)), out)


def _session_options(ort: Any, folder: Path, job: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # it turns a float layer between integers into an integer one, unasked
    options.add_session_config_entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
    for name, size in job["dims"].items():
        options.add_free_dimension_override_by_name(name, size)
    if job["task"] == "compile":
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_file_path", str(folder / CONTEXT))
        options.add_session_config_entry("ep.context_embed_mode", "0")
    return options


def _provider_options(qnn: Any, folder: Path, job: dict[str, Any]) -> dict[str, str]:
    (folder / GRAPHS).mkdir(exist_ok=True)
    options = {
        "backend_path": qnn.get_qnn_htp_path(),
        "soc_model": str(job["soc"]),
    }
    if job["task"] == "dlc":  # its writer has no profile
        library = Path(qnn.LIB_DIR_FULL_PATH) / "libQnnIr.so"
        writer = {"dump_qnn_ir_dlc": "1", "dump_qnn_ir_dlc_dir": str(folder), "qnn_ir_backend_path": str(library)}
        return options | writer
    profile = {"profiling_level": "detailed", "profiling_file_path": str(folder / PROFILE)}
    return options | profile | {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder / GRAPHS)}


def main() -> int:
    """Run the job named on the command line; return the exit code."""
    try:
        run_job(Path(sys.argv[1]))
    except Exception as error:  # whatever the provider raises goes to the process that asked
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
