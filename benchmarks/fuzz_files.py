"""Damaged files of every kind that comes from outside: how many were read, refused, or did anything else, in counts."""

import logging
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

sys.path.insert(0, str(record.HERE.parent / "tests" / "fuzz_files"))
from file_kinds import KINDS
from file_seeds import make_seeds
from fuzzing import Tally, make_plan, run


def main() -> None:
    options = record.parser(__doc__ or "")
    options.add_argument("--cases", type=int, default=10_500, help="files to damage, at least")
    options.add_argument(
        "--first", type=int, default=4_000_000, help="number of the first case: other cases, other damage"
    )
    args = options.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found = record.start("Damaged files")
    with tempfile.TemporaryDirectory() as scratch:
        tallies = _tallies(Path(scratch), args.cases, args.first)
    rows = {name: _counts(tally) for name, tally in tallies.items()}
    record.table(
        ("kind of file", "damaged", "read", "refused", "unexpected", "crashed", "slowest ms", "MB"),
        [(name, *row.values()) for name, row in rows.items()],
    )
    said = [text for tally in tallies.values() for text in (*tally.unexpected, *tally.crashed)]
    for text in said:
        print(text)
    total = {
        key: sum(row[key] for row in rows.values()) for key in ("tried", "read", "refused", "unexpected", "crashed")
    }
    print(f"\n{total['tried']} damaged files: {total['unexpected']} unexpected, {total['crashed']} crashed")
    record.save("fuzz_files", args, found, {"total": total, "kinds": rows, "said": said})


def _tallies(scratch: Path, cases: int, first: int) -> dict[str, Tally]:
    make_seeds(scratch / "seeds", with_torch=True)
    tallies = {name: Tally() for name in KINDS}
    plan = make_plan({name: kind.share for name, kind in KINDS.items()}, cases, first)
    for outcome in run(plan, scratch / "seeds", scratch / "run"):
        tallies[outcome.kind].add(outcome)
    return tallies


def _counts(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "unexpected": len(tally.unexpected), "crashed": len(tally.crashed)}


if __name__ == "__main__":
    main()
