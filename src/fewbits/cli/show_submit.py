"""What `submit` prints."""

from dataclasses import asdict

from rich.console import Console

from fewbits.cli import show
from fewbits.deployment.hub_results import DeviceProfile, OutputMatch
from fewbits.workflow.submit import SubmitResult

MOST_LAYERS = 5


def submit_json(result: SubmitResult) -> None:
    """Print everything as one JSON object."""
    show.print_json(asdict(result))


def submit_table(result: SubmitResult) -> None:
    """Print what the device measured and answered, what that does not show, and where it is written."""
    out, device = show.console(), result.device
    out.print(f"{result.upload} on {device.name}, OS {device.os or 'unknown'} ({result.options})", soft_wrap=True)
    _print_profile(out, result.profile)
    if result.outputs:
        rows = [(name, match.device_name, match_words(match)) for name, match in result.outputs.items()]
        title = f"outputs of {result.samples} samples against the simulation"
        show.print_table(out, title, ("output", "on the device", "SQNR"), rows)
        for name, match in result.outputs.items():
            if match.problem:
                out.print(f"{name} was not compared: {match.problem}", soft_wrap=True)
    for kind, job in result.jobs.items():
        again = ", submitted by an earlier call" if kind in result.resumed else ""
        out.print(f"{kind} job: {job.id}, {job.url}{again}", soft_wrap=True)
    for sentence in result.not_shown:
        out.print(f"not shown: {sentence}", soft_wrap=True)
    out.print(f"report: {result.path}", soft_wrap=True)
    out.print(show.timings(result.seconds), soft_wrap=True)


def match_words(match: OutputMatch) -> str:
    """Return the SQNR of an output, that it is equal, or that there is none."""
    if match.problem:
        return "not compared"
    return show.sqnr(None if match.is_equal else match.sqnr_db)


def _print_profile(out: Console, profile: DeviceProfile) -> None:
    runs = f" (fastest {profile.min_us:g}, median {profile.median_us:g} of {profile.runs} runs)" if profile.runs else ""
    latency = "unknown" if profile.latency_us is None else f"{profile.latency_us:g} us{runs}"
    memory = "unknown" if profile.peak_memory_bytes is None else show.size(profile.peak_memory_bytes)
    out.print(f"latency: {latency}; peak memory: {memory}", style="bold")
    rows = [(unit, str(count)) for unit, count in profile.units.items()]
    show.print_table(out, "layers by compute unit", ("unit", "layers"), rows, right=(1,))
    if profile.elsewhere:
        shown = profile.elsewhere[:MOST_LAYERS]
        rest = len(profile.elsewhere) - len(shown)
        title = "not on the NPU" + (f" (and {rest} more; --json lists all)" if rest else "")
        show.print_table(out, title, ("layer", "type", "unit"), shown)
