"""What becomes of every model of the ONNX project's backend tests in four precisions, in counts.

Its node models, its small networks (simple, pytorch-operator, pytorch-converted) and its whole networks (light), whose
weights are made up. What stays in float is listed by operator, with the reason.
"""

import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import record

sys.path.insert(0, str(record.HERE.parent / "tests" / "workflow"))
import backend_cases as backend

SHOWN = 12
SUITES = ("node", *backend.FILE_SUITES, "light")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--suites", nargs="*", default=SUITES, choices=SUITES)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # float16 casts of samples made to overflow
    logging.disable(logging.CRITICAL)
    found = record.start("ONNX backend models")
    suites: dict[str, dict[str, Any]] = {}
    everything: list[backend.Outcome] = []
    for suite in args.suites:
        outcomes = list(_outcomes(suite))
        everything += outcomes
        cases = len(outcomes) // len(backend.ALL_PRECISIONS)
        suites[suite] = {"onnx_cases": cases}
        for precision in backend.ALL_PRECISIONS:
            suites[suite][precision] = _counts(outcomes, precision)
            _print(f"{suite}, {precision}", suites[suite][precision], cases)
    left = _left(everything)
    _print_left(left)
    nodes = suites.pop("node", {})
    record.save("backend_nodes", args, found, {**nodes, "suites": suites, "left in float, by operator": left})


def _outcomes(suite: str) -> Iterable[backend.Outcome]:
    for name, model, feeds in _cases(suite):
        with tempfile.TemporaryDirectory() as scratch:
            yield from backend.take_in(name, model, feeds, Path(scratch) / "case" / "out", backend.ALL_PRECISIONS)


def _cases(suite: str) -> Iterable[tuple[str, Any, Any]]:
    if suite == "node":
        return ((case.name, case.model, backend.feeds_of(case)) for case in backend.all_cases())
    return ((case.name, case.model, case.feeds) for case in backend.file_cases(suite))


def _counts(outcomes: list[backend.Outcome], precision: str) -> dict[str, Any]:
    """Return the models by how they ended, and the reasons and messages by kind, the most frequent first."""
    mine = [outcome for outcome in outcomes if outcome.precision == precision]
    kinds = {
        status: Counter(
            kind for o in mine if o.status == status for kind in {backend.kind_of(reason) for reason in o.reasons}
        )
        for status in (backend.FLOAT, backend.REFUSED)
    }
    scored = [o.sqnr_db for o in mine if o.status == backend.QUANTIZED and o.sqnr_db]
    return {
        "models": dict(Counter(outcome.status for outcome in mine).most_common()),
        "median_sqnr_db": round(median(scored), 1) if scored else None,
        "breaches": sum(bool(outcome.breaches) for outcome in mine),
        "reasons for float": dict(kinds[backend.FLOAT].most_common()),
        "messages of refusals": dict(kinds[backend.REFUSED].most_common()),
    }


def _left(outcomes: list[backend.Outcome]) -> dict[str, dict[str, dict[str, int]]]:
    """Return precision -> operator -> reason -> in how many models a node of it stays in float."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for precision in backend.ALL_PRECISIONS:
        pairs = Counter(pair for o in outcomes if o.precision == precision for pair in o.left)
        rows: dict[str, dict[str, int]] = {}
        for (operator, reason), count in sorted(pairs.items()):
            rows.setdefault(operator, {})[reason] = count
        found[precision] = rows
    return found


def _print_left(left: dict[str, dict[str, dict[str, int]]]) -> None:
    rows = [
        (operator, reason, count)
        for operator, reasons in left[backend.ALL_PRECISIONS[0]].items()
        for reason, count in reasons.items()
    ]
    record.table([f"left in float at {backend.ALL_PRECISIONS[0]}", "reason", "models"], rows)


def _print(title: str, counts: dict[str, Any], cases: int) -> None:
    words = {"quantized": "quantized, and runs", "float": "left in float with a reason, and runs", "refused": "refused"}
    rows = [(text, counts["models"].get(status, 0)) for status, text in words.items()]
    record.table(
        [f"{title}: {cases} models", "models"], [*rows, ("wrong type, shape or no reason", counts["breaches"])]
    )
    for part in ("reasons for float", "messages of refusals"):
        kinds = list(counts[part].items())
        rest = sum(count for _, count in kinds[SHOWN:])
        more = [(f"... {len(kinds) - SHOWN} more kinds", rest)] if rest else []
        record.table([part, "models"], [*((kind[:110], count) for kind, count in kinds[:SHOWN]), *more])


if __name__ == "__main__":
    main()
