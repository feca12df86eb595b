"""Cost models by name: what each counts, measures or estimates, as `fewbits amp --cost` takes them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fewbits.analysis.cost_counts import bit_operation_costs, byte_costs
from fewbits.analysis.cost_table import table_costs
from fewbits.analysis.costs import Costs
from fewbits.errors import SpecError
from fewbits.spec.soc import find_soc, socs
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_ort import ort_latency_costs
from fewbits.workflow.cost_qnn import qnn_costs

CostModel = Callable[[CostContext, Sequence[str]], Costs]
"""Of a network and candidate precisions; raises FewbitsError where it cannot say."""


def bitops(context: CostContext, precisions: Sequence[str]) -> Costs:
    """Return multiply-accumulates x bits of both factors; see `bit_operation_costs`."""
    return bit_operation_costs(context.layout(precisions))


def moved_bytes(context: CostContext, precisions: Sequence[str]) -> Costs:
    """Return bytes of weights and activations; see `byte_costs`."""
    return byte_costs(context.layout(precisions))


def table(context: CostContext, precisions: Sequence[str], path: str) -> Costs:
    """Return the costs that the user's CSV file lists; see `table_costs`."""
    return table_costs(context.layout(precisions), Path(path))


COST_MODELS: Mapping[str, CostModel] = {
    "bitops": bitops,
    "bytes": moved_bytes,
    "ort-latency": ort_latency_costs,
}
QNN_ESTIMATE = "qnn-estimate"
"""Written with a chip behind it: qnn-estimate:soc77."""


def parse_cost(text: str) -> CostModel:
    """Return the cost model that `text` names: one of COST_MODELS, qnn-estimate:CHIP or FILE.csv.

    Raises:
        SpecError: there is none of that name, or the chip has no estimates.
    """
    name, _, argument = text.strip().partition(":")
    if text.strip().lower().endswith(".csv"):
        return partial(table, path=text.strip())
    if name == QNN_ESTIMATE:
        return partial(qnn_costs, soc=_chip(argument))
    if text.strip() in COST_MODELS:
        return COST_MODELS[text.strip()]
    near = difflib.get_close_matches(text, [*COST_MODELS, QNN_ESTIMATE], 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SpecError(f"Unknown cost {text!r}: write {', '.join(COST_MODELS)}, {QNN_ESTIMATE}:CHIP or FILE.csv.{hint}")


def _chip(name: str) -> str:
    known = ", ".join(soc.name for soc in socs() if soc.estimates)
    if not name:
        raise SpecError(f"The cost {QNN_ESTIMATE} needs a chip: write {QNN_ESTIMATE}:CHIP with one of {known}.")
    chip = find_soc(name)
    if not chip.estimates:
        raise SpecError(f"The compiler has no latency estimates for {chip.name}: it has them for {known}.")
    return chip.name
