"""The float model behind a quantized one, for those who want to quantize it anew."""

import onnx_ir as ir

from fewbits.graph.passes import constants
from fewbits.graph.prepare import PassReport
from fewbits.graph.quantized import as_qdq, quantized_nodes
from fewbits.graph.shapes import infer_shapes
from fewbits.quantization.strip import strip_qdq

NAME = "requantize"


def float_behind(model: ir.Model, what: str) -> tuple[ir.Model, PassReport]:
    """Return the float graph behind a model in QDQ form or with integer operators, and what was taken out.

    Its weights are the floats that the stored codes stand for: what rounding has lost is not brought back. A model
    that is not quantized comes back as it is.

    Args:
        model: loaded; left as it is.
        what: what messages call it.

    Raises:
        ModelError: a part of it computes in integers and has no float form that fewbits knows.
    """
    counts = quantized_nodes(model)
    if not counts:
        return model, PassReport(NAME, (), ())
    work = model.clone()
    constants.run(work)
    infer_shapes(work)
    work = as_qdq(work)
    infer_shapes(work)
    if quantized_nodes(work):
        work = strip_qdq(work, f"the model {what!r}").model
        infer_shapes(work)
    lines = tuple(f"took out {count} {op}" for op, count in counts.items())
    return work, PassReport(NAME, lines, ())
