"""The operators of the torch executor: which ONNX node models hold them, and how many of these it computes right."""

import sys
from collections import Counter
from importlib import metadata

import record

sys.path.insert(0, str(record.HERE.parent / "tests" / "runtime"))
import operator_cases as backend

from fewbits.runtime.torch_operators.table import OPERATORS


def main() -> None:
    args = record.parser(__doc__ or "").parse_args()
    found = record.start("ONNX backend node models through the torch operators")
    skipped = Counter(reason for case in backend.cases() if (reason := backend.skipped(case)))
    compared = [case for case in backend.cases() if not backend.skipped(case)]
    flawed = [case.name for case in compared if flaws(case)]
    counts = Counter(op for case in compared for op in {str(node.op_type) for node in case.model.graph.node})
    results = {
        "onnx": metadata.version("onnx"),
        "compared": len(compared),
        "passed": len(compared) - len(flawed),
        "flawed": flawed,
        "skipped": dict(skipped),
        "operators": {op: counts[op] for op in sorted(OPERATORS)},
    }
    print(
        f"{len(OPERATORS)} operators; {results['passed']} of {len(compared)} models pass; not compared: {dict(skipped)}"
    )
    record.save("torch_operators", args, found, results)


def flaws(case: backend.Case) -> list[str]:
    """Return how the outputs of one model differ from what ONNX's reference gives."""
    given = backend.run(case.model, backend.feeds_of(case))
    pairs = zip(given.values(), case.data_sets[0][1], strict=True)
    return [flaw for tensor, wanted in pairs if (flaw := backend.difference(tensor, wanted, case.rtol, case.atol))]


if __name__ == "__main__":
    main()
