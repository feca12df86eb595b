"""What the commands for Qualcomm's toolchain print."""

from collections.abc import Sequence
from dataclasses import asdict

from fewbits.cli import show
from fewbits.spec.soc import Soc
from fewbits.workflow.compile import CompileResult, EstimateResult
from fewbits.workflow.lint import LintResult

_ESTIMATED = "an estimate of Qualcomm's compiler for this chip: use it to rank models, not as a promise"


_OUTCOMES = {
    "refused": "the compiler will refuse it",
    "float": "it will run in float",
    "changed": "it will compute something else",
}


def lint_json(result: LintResult) -> None:
    """Print everything as one JSON object."""
    findings = [asdict(finding) for finding in result.findings]
    show.print_json(
        {"model": result.model, "target": result.target.name, "passed": result.passed, "findings": findings}
    )


def lint_table(result: LintResult) -> None:
    """Print every finding with its fix, those of one kind together."""
    out = show.console()
    device = result.soc.name if result.soc else result.target.name
    count = f"{len(result.findings)} findings" if result.findings else "nothing found"
    out.print(f"{result.model} for {device}: {count} in {result.operators} operators", soft_wrap=True)
    for rule in dict.fromkeys(finding.rule for finding in result.findings):
        mine = [finding for finding in result.findings if finding.rule == rule]
        out.print(f"{rule}: {_OUTCOMES[mine[0].outcome]} ({len(mine)})", style="bold")
        for finding in mine[:MOST_ROWS]:
            out.print(f"  {finding.op} {finding.node!r}: {finding.says}")
        if len(mine) > MOST_ROWS:
            out.print(f"  ... and {len(mine) - MOST_ROWS} more; --json lists all")
        out.print(f"  fix: {mine[0].fix}")


MOST_ROWS = 5


def compile_json(result: CompileResult) -> None:
    """Print everything as one JSON object."""
    show.print_json({"passed": result.passed, **asdict(result)})


def compile_table(result: CompileResult) -> None:
    """Print sizes, types, and what differs."""
    out, types = show.console(), result.types
    chip = f"{result.soc.name} (HTP {result.soc.htp})"
    if result.passed:
        checked = f"{types.checked} operators run in the type that the file says"
        out.print(f"compiled for {chip}: {show.size(result.binary_bytes)}; {checked}")
    rows = [(kind, str(count)) for kind, count in sorted(types.counts.items(), key=lambda row: -row[1])]
    show.print_table(out, "operators of the compiled graph", ("type", "operators"), rows, right=(1,))
    if types.wrong:
        columns = ("node", "operator", "in the file", "compiled")
        show.print_table(out, "compiled in another type than the file says", columns, types.wrong)
    if result.estimate is not None and not result.estimate.missing_ops:
        figures = result.estimate
        out.print(f"latency: {figures.latency_us} us ({figures.low_us} to {figures.high_us}), {_ESTIMATED}")
    for role, path in result.files.items():
        out.print(f"{role}: {path}", soft_wrap=True)
    out.print(show.timings(result.seconds))


def estimate_json(result: EstimateResult) -> None:
    """Print everything as one JSON object."""
    show.print_json({"is_estimate": True, **asdict(result)})


def estimate_table(result: EstimateResult) -> None:
    """Print the latency and the traffic."""
    out, figures = show.console(), result.estimate
    out.print(f"{figures.latency_us} us on {result.soc.name} ({figures.low_us} to {figures.high_us})", style="bold")
    out.print(f"  {_ESTIMATED}")
    rows = [
        ("read from DDR", show.size(figures.read_bytes)),
        ("written to DDR", show.size(figures.written_bytes)),
        ("spilled", show.size(figures.spilled_bytes)),
        ("binary", show.size(result.binary_bytes)),
    ]
    show.print_table(out, "", ("what", "size"), rows, right=(1,))


def chips_json(found: Sequence[Soc]) -> None:
    """Print the chips as one JSON object."""
    show.print_json({"chips": [asdict(soc) | {"target": soc.target} for soc in found]})


def chips_table(found: Sequence[Soc]) -> None:
    """Print the chips."""
    rows = [
        (soc.name, str(soc.id), soc.target, "yes" if soc.fp16 else "no", "yes" if soc.estimates else "no")
        for soc in found
    ]
    show.print_table(show.console(), "", ("chip", "number", "target", "fp16", "latency estimates"), rows)
