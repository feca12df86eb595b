"""What is checked of the model that a workflow hands over: its bits elsewhere, the device's rules, its compiler."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fewbits.artifact import names
from fewbits.deployment.lint_rules import Finding
from fewbits.errors import FewbitsError
from fewbits.spec.soc import socs
from fewbits.workflow.compile import compile as compile_for
from fewbits.workflow.compile import dims_of
from fewbits.workflow.lint import lint
from fewbits.workflow.ready import Ready
from fewbits.workflow.stages import Watcher
from fewbits.workflow.verify import verify

_FAILED = "failed"
_FIRST_CHIP = {"qnn-htp-v73": "sm8550"}
"""Target -> the chip that is compiled for where the user names none; elsewhere the first of the target."""


def check_made(folder: Path, ready: Ready, *, soc: str | None, progress: Watcher | None) -> Mapping[str, str]:
    """Return check -> result in words, failures first.

    Args:
        folder: holds the artifact.
        ready: gives the target, and a sample for open dimensions.
        soc: chip to compile for; None takes one of the target.
        progress: told of each stage.
    """
    checks: dict[str, Callable[[], str]] = {
        "verify": lambda: _verified(folder, progress),
        "lint": lambda: _linted(folder, ready),
    }
    chip = soc or chip_of(ready.subject.target.name)
    if chip is not None:
        checks[f"compile for {chip}"] = lambda: _compiled(folder, ready, chip, progress)
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except FewbitsError as error:
            found[name] = f"{_FAILED}: {error}"
    return dict(sorted(found.items(), key=lambda item: not has_failed(item[1])))


def has_failed(result: str) -> bool:
    """Whether the result of a check says that it failed."""
    return result.startswith(_FAILED)


def _verified(folder: Path, progress: Watcher | None) -> str:
    result = verify(folder, progress=progress)
    if result.passed:
        return "a fresh process gives the scored outputs, bit for bit"
    return f"{_FAILED}: a fresh process gives other outputs than those that were scored"


def _linted(folder: Path, ready: Ready) -> str:
    result = lint(folder, target=ready.subject.target)
    if result.passed:
        return f"{result.operators} operators follow the rules of {result.target.name}"
    said = "; ".join(_findings(result.findings))
    return (
        f"{_FAILED}: {len(result.findings)} of {result.operators} operators do not follow {result.target.name}: {said}"
    )


def _findings(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings[:3]:
        yield finding.says
    if len(findings) > 3:
        yield "..."


def chip_of(target: str) -> str | None:
    """Return the chip that is compiled for where the user names none; None where no chip follows the target."""
    chips = [chip.name for chip in socs() if chip.target == target]
    return _FIRST_CHIP.get(target) or next(iter(chips), None)


def _compiled(folder: Path, ready: Ready, chip: str, progress: Watcher | None) -> str:
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return "not done: Qualcomm's compiler is not installed (pip install 'fewbits[qnn]')"
    dims = dims_of(folder / names.ARTIFACT, ready.subject.first_feeds)
    result = compile_for(folder, soc=chip, dims=dims, progress=progress)
    if not result.passed:
        return f"{_FAILED}: {len(result.types.wrong)} operators were compiled in other types than the file says"
    return f"every operator in its type, {result.binary_bytes / 1e6:.1f} MB"
