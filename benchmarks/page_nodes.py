"""The sections of docs/results.md on what is taken in: the models of the ONNX backend tests, and random graphs."""

import re
from collections import Counter
from typing import Any

from page import load, table

PRECISIONS = ("w8a8", "w8a16", "w4a8", "fp16")
ENDS = {"quantized": "quantized, and runs", "float": "left in float, and runs", "refused": "refused"}
WORDS = ("quantized", "with nothing to quantize", "refused")
LAST_CAUSE = "ONNX Runtime loads no LayerNormalization that leaves out its second of three outputs, which nothing read."
FLOAT = {"computes no float32 values": "no float32 values$", "operator not in the table": "not in the table"}
REFUSED = {
    "no metric for its outputs (text, infinities), which w8a8 alone was scored by": "^Metric",
    "an input or output of a type that numpy lacks": "numpy's own types only",
    "onnxruntime cannot load or run it": "^onnxruntime (cannot load|could not run)",
    "NaN or infinity in the samples or the model": "must be finite|becomes NaN or Inf",
    "quantized already": "^The model _ is quantized already",
    "no inputs, or no samples": "holds no samples|cannot feed the model",
}
"""What is said of a kind of sentence -> what finds it; the first that fits."""


def guide_part() -> str:
    """Return the figures of docs/guide.md: the table of node models, and a line on the networks."""
    results, _ = load("backend_nodes")
    rows: list[tuple[object, ...]] = []
    for end, text in ENDS.items():
        rows.append((text, *(results[p]["models"].get(end, 0) for p in PRECISIONS)))
        parts = {"float": ("reasons for float", FLOAT), "refused": ("messages of refusals", REFUSED)}.get(end)
        if parts is not None:
            found = [sums(results[p][parts[0]], parts[1]) for p in PRECISIONS]
            kinds = [*parts[1], *({"others"} if end == "refused" and any(counts["others"] for counts in found) else ())]
            rows += [(f"of these: {what}", *(counts[what] for counts in found)) for what in kinds]
    medians = ", ".join(f"{results[p]['median_sqnr_db']:.0f} dB at {p}" for p in PRECISIONS)
    ends = {end: [sum(one[p]["models"].get(end, 0) for one in results["suites"].values()) for p in PRECISIONS]
            for end in ENDS}  # fmt: skip
    networks = sum(one["onnx_cases"] for one in results["suites"].values())
    said = ", ".join(f"{_span(counts)} {text}" for text, counts in zip(WORDS, ends.values(), strict=True))
    return (
        table(("", *PRECISIONS), rows)
        + f"\nMedian SQNR of the quantized ones: {medians}. Of the {networks} networks of these tests, in each precision: {said}.\n"
    )  # fmt: skip


def _span(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def sums(kinds: dict[str, int], patterns: dict[str, str]) -> Counter[str]:
    """Return the models by what is said of them; one that is left in float for several reasons counts in several."""
    found: Counter[str] = Counter()
    for sentence, count in kinds.items():
        what = next((what for what, pattern in patterns.items() if re.search(pattern, sentence)), "others")
        found[what] += count
    return found


def nodes() -> str:
    """Return what becomes of the models of the ONNX backend tests, and what stays in float."""
    results, when = load("backend_nodes")
    suites = {"node": {"onnx_cases": results["onnx_cases"], **{p: results[p] for p in PRECISIONS}}, **results["suites"]}
    rows = [(suite, one["onnx_cases"], *(_ends(one[p]["models"]) for p in PRECISIONS)) for suite, one in suites.items()]
    breaches = sum(one[p]["breaches"] for one in suites.values() for p in PRECISIONS)
    return (
        "## Intake\n\nEvery model of the ONNX project's backend tests through quantize (`benchmarks/backend_nodes.py`): quantized / "
        "left in float / refused. What is quantized or left in float runs in onnxruntime, float nodes have a stated reason, the rest is "
        f"refused in one sentence. Other endings: none, or the run would have stopped; outputs of another type or shape, or nodes without "
        f"a reason: {breaches}.\n\n" + table(("suite", "models", *PRECISIONS), rows) + "\n" + _left(results) + "\n" + when
    )  # fmt: skip


def _ends(models: dict[str, int]) -> str:
    return " / ".join(str(models.get(end, 0)) for end in ENDS)


def _left(results: dict[str, Any]) -> str:
    """Return the operators that stay in float at w8a8, by reason, and what else stays at the other precisions."""
    left = results["left in float, by operator"]
    base = _by_reason(left[PRECISIONS[0]])
    rows: list[tuple[object, ...]] = [(PRECISIONS[0], *row) for row in _listed(base)]
    for precision in PRECISIONS[1:]:
        more = {reason: {op: n for op, n in ops.items() if op not in base.get(reason, {})}
                for reason, ops in _by_reason(left[precision]).items()}  # fmt: skip
        rows += [(f"also at {precision}", *row) for row in _listed({r: ops for r, ops in more.items() if ops})]
    return (
        "What stays in float, by reason, with the number of models:\n\n"
        + table(("precision", "reason", "operators"), rows)
    )  # fmt: skip


def _by_reason(left: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for operator, reasons in left.items():
        for reason, count in reasons.items():
            plain = re.sub(r"^operator \S+ is", "the operator is", reason)
            plain = re.sub(r"^(fp16 overflows).*", r"\1 on the calibration data", plain)
            counts = found.setdefault(plain, {})
            counts[operator] = counts.get(operator, 0) + count
    return found


def _listed(reasons: dict[str, dict[str, int]]) -> list[tuple[str, str]]:
    ordered = sorted(reasons.items(), key=lambda item: -sum(item[1].values()))
    return [
        (reason, ", ".join(f"{op} {n}" for op, n in sorted(ops.items(), key=lambda i: -i[1])))
        for reason, ops in ordered
    ]


def graphs() -> str:
    """Return what random graphs broke, and what a long loop of them does to memory."""
    results, when = load("fuzz_graphs")
    memory, seconds = results["memory"], results["seconds"]
    rows: list[tuple[object, ...]] = [
        ("graphs", results["graphs"]),
        ("drawn, and not run by onnxruntime itself", results["discards"]),
        ("nodes", results["nodes"]),
        ("operators", len(results["operators"])),
        ("broken invariants, and exceptions", results["failures"]),
        ("graphs with an operator that the torch executor lacks", results["not simulated in torch"]),
        ("minutes", f"{seconds / 60:.0f}"),
        ("resident MB after the first 50, after a fifth of the time, at the end",
         " / ".join(f"{memory[key]:.0f}" for key in ("first_mb", "after_warm_up_mb", "last_mb"))),
        ("MB a minute after a fifth of the time, and in the last half",
         " / ".join(f"{memory[key]:.2f}" for key in ("slope_mb_per_minute", "last_half_mb_per_minute"))),
    ]  # fmt: skip
    if own := memory.get("without files"):
        rows += [("the same without pages of libraries, which become resident when first used",
                  " / ".join(f"{own[key]:.0f}" for key in ("first_mb", "after_warm_up_mb", "last_mb"))),
                 ("its MB a minute in the last half", f"{own['last_half_mb_per_minute']:.2f}")]  # fmt: skip
    first, second, third, fourth, fifth, sixth, seventh = (load(f"fuzz_graphs_{i}")[0] for i in range(1, 8))
    in_blocks, (again, _) = load("fuzz_graphs_blocks_1")[0], load("fuzz_graphs_blocks")
    return (
        "## Random graphs\n\nRandom graphs, precisions, targets and ranges through prepare, quantize, insert and import, each held against the "
        "invariants of `tests/fuzz/graph_checks.py` (`benchmarks/fuzz_graphs.py`). Their numbers are used nowhere else. A first run, of "
        f"{first['graphs']} graphs, broke invariants {first['failures']} times in five graphs, of three causes: onnxslim fixed an open batch at the "
        "size of a constant beside it, the open shape of an output replaced that of an input that is the same tensor, and a tensor lost its name in "
        f"import. A second one, of {second['graphs']} other graphs, broke them {second['failures']} times, of one cause: {LAST_CAUSE} A third one, of "
        f"{third['graphs']}, broke them {third['failures']} times; a fourth, of {fourth['graphs']}, {fourth['failures']} times in one graph, where an AveragePool with "
        "dilations stood between two grids; a fifth, of "
        f"{fifth['graphs']}, {fifth['failures']} times in two graphs: in one onnxslim gave a Compress the shape of its input, the other had a "
        "MeanVarianceNormalization of a channel that is constant but for the last bits, which is noise in float, too, and is not drawn any more; a "
        f"sixth, of {sixth['graphs']}, {sixth['failures']} times in three graphs: onnxslim took the parts of a Split of an open batch for equal, or left a "
        "Split without one of its outputs, and import put a Relu behind a float16 MatMul. All of them were mended before the next run. A seventh, of "
        f"{seventh['graphs']}, broke them {seventh['failures']} times. On ort-cpu with weight scales per block where a precision has them, "
        f"{in_blocks['graphs']} graphs broke them {in_blocks['failures']} time: a Conv whose weight is an output of open shape, too. After that was mended, {again['graphs']} others, drawn with more "
        f"of the layers that have blocks ({sum(again['weights with scales per block'].values())} such weights), broke them {again['failures']} times. The table is of "
        "an eighth run, of other graphs again, before that mend and before RNN, GRU and LSTM ran in torch.\n\n" + table(("", ""), rows) + "\n" + when
    )  # fmt: skip
