"""What becomes of every node model of the ONNX project's backend tests at w8a8 and fp16, in counts."""

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


def main() -> None:
    args = record.parser(__doc__ or "").parse_args()
    warnings.simplefilter("ignore")  # float16 casts of samples made to overflow
    logging.disable(logging.CRITICAL)
    found = record.start("ONNX backend node models")
    outcomes = list(_outcomes())
    results = {precision: _counts(outcomes, precision) for precision in backend.PRECISIONS}
    cases = len(outcomes) // len(backend.PRECISIONS)
    for precision, counts in results.items():
        _print(precision, counts, cases)
    record.save("backend_nodes", args, found, {"onnx_cases": cases, **results})


def _outcomes() -> Iterable[backend.Outcome]:
    for case in backend.all_cases():
        with tempfile.TemporaryDirectory() as scratch:
            yield from backend.take_in(case.name, case.model, backend.feeds_of(case), Path(scratch) / "case" / "out")


def _counts(outcomes: list[backend.Outcome], precision: str) -> dict[str, Any]:
    """Return the models by how they ended, and the reasons and messages by kind, the most frequent first."""
    mine = [outcome for outcome in outcomes if outcome.precision == precision]
    kinds = {
        status: Counter(
            kind for o in mine if o.status == status for kind in {backend.kind_of(reason) for reason in o.reasons}
        )
        for status in (backend.FLOAT, backend.REFUSED)
    }
    return {
        "models": dict(Counter(outcome.status for outcome in mine).most_common()),
        "median_sqnr_db": round(median(o.sqnr_db for o in mine if o.status == backend.QUANTIZED and o.sqnr_db), 1),
        "breaches": sum(bool(outcome.breaches) for outcome in mine),
        "reasons for float": dict(kinds[backend.FLOAT].most_common()),
        "messages of refusals": dict(kinds[backend.REFUSED].most_common()),
    }


def _print(precision: str, counts: dict[str, Any], cases: int) -> None:
    words = {"quantized": "quantized, and runs", "float": "left in float with a reason, and runs", "refused": "refused"}
    rows = [(text, counts["models"].get(status, 0)) for status, text in words.items()]
    record.table(
        [f"{precision}: {cases} models", "models"], [*rows, ("wrong type, shape or no reason", counts["breaches"])]
    )
    for title in ("reasons for float", "messages of refusals"):
        kinds = list(counts[title].items())
        rest = sum(count for _, count in kinds[SHOWN:])
        more = [(f"... {len(kinds) - SHOWN} more kinds", rest)] if rest else []
        record.table([title, "models"], [*((kind[:110], count) for kind, count in kinds[:SHOWN]), *more])


if __name__ == "__main__":
    main()
