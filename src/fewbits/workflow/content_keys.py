"""Content hashes of what results depend on: graphs, what is inserted into them, and how models are scored."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.analysis.score_user import UserMetric
from fewbits.quantization.encode import Encoded
from fewbits.runtime.store import key_of
from fewbits.spec.plan import Plan
from fewbits.spec.precision import FP16
from fewbits.workflow.scoring import Scoring


def model_key(model: ir.Model) -> str:
    """Return the content hash of a graph: its operators and its constants."""
    nodes = [ir.to_proto(node).SerializeToString(deterministic=True) for node in model.graph]
    constants = _Constants({n: v.const_value for n, v in model.graph.initializers.items() if v.const_value is not None})
    ends = [str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)]
    return key_of(nodes, constants, ends, dict(model.opset_imports))


class _Constants(Mapping[str, npt.NDArray[np.generic]]):
    """Constants by name, of which one at a time is read."""

    def __init__(self, tensors: Mapping[str, ir.TensorProtocol]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        return self._tensors[name].numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def plan_key(plan: Plan, encoded: Encoded) -> str:
    """Return the content hash of what is inserted into a graph."""
    grids = {
        key: (repr(grid), encoded.encodings[key].scale, encoded.encodings[key].zero_point, encoded.biases.get(key))
        for key, grid in plan.grids.items()
    }
    inputs = {f"{position} {node}": key for (node, position), key in plan.inputs.items()}
    halves = sorted(name for name, node in plan.nodes.items() if node.precision == FP16)
    return key_of(grids, inputs, dict(plan.outputs), halves)


def scoring_key(scoring: Scoring) -> str | None:
    """Return the content hash of everything, the model aside, that a score depends on.

    The user's own file.py:function counts by the content of that file, not by what it imports or reads. None for a
    function that was given as an object: nothing tells whether it is the same one next time.
    """
    metric = scoring.metric
    how: str | tuple[str, bytes, bool]
    if isinstance(metric, UserMetric):
        if metric.path is None:
            return None
        how = (metric.name.rpartition(":")[2], metric.path.read_bytes(), metric.higher_is_better)
    else:
        how = repr(metric)
    return key_of("score", how, scoring.data.fingerprint, scoring.limit, scoring.batch_size)
