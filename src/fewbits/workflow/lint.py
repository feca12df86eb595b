"""Verb lint: what a device will refuse, run in float, or silently change, before anything is compiled."""

from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.deployment.lint_rules import RULES, Case, Finding
from fewbits.deployment.qdq_view import QdqView
from fewbits.errors import SpecError
from fewbits.graph.load import read_proto
from fewbits.spec.soc import Soc, find_soc
from fewbits.spec.target import DEFAULT_TARGET, Target, load_target


@dataclass(frozen=True, slots=True)
class LintResult:
    """What `lint` found.

    Attributes:
        model: the file.
        target: the device's rules.
        soc: the chip, where one was named.
        findings: in the graph's order.
        operators: how many were looked at.
    """

    model: str
    target: Target
    soc: Soc | None
    findings: tuple[Finding, ...]
    operators: int

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def lint(model: str | Path, *, target: str | Path | Target | None = None, soc: str | int | None = None) -> LintResult:
    """Look for what a device will refuse, run in float, or silently change. Nothing is compiled, and nothing needed.

    Args:
        model: a QDQ file, whoever wrote it, or the output folder of a verb.
        target: device profile, its name, a TOML file or aimet:FILE.json; None takes that of the chip, or the default.
        soc: a chip, by name or number, whose own limits count, too.

    Raises:
        SpecError: the target or chip is unknown, or both are named and the chip follows other rules.
        ModelError: the file cannot be read.
    """
    chip = None if soc is None else find_soc(soc)
    rules = load_target(target or (chip.target if chip else DEFAULT_TARGET))
    if chip is not None and target is not None and rules.name.startswith("qnn-htp-") and rules.name != chip.target:
        raise SpecError(f"{chip.name} follows {chip.target}, not {rules.name}: leave one of --soc and --target out.")
    path = Path(model)
    path = path / names.ARTIFACT if path.is_dir() else path
    view = QdqView(read_proto(path))
    cases = [Case(view, node, rules, chip) for node in view.operators]
    found = tuple(finding for case in cases for rule in RULES for finding in rule(case))
    return LintResult(str(path), rules, chip, found, len(cases))
