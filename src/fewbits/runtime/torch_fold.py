"""Parameters of the torch executor, put back into the ONNX graph that they came from."""

import numpy as np
import onnx_ir as ir

from fewbits.runtime.torch_graph import TorchGraph


def folded(model: ir.Model, graph: TorchGraph) -> ir.Model:
    """Return a copy of `model` with the parameters of `graph`, made of it; what is the same stays as it is."""
    copy = model.clone()
    for name, parameter in graph.named_values():
        value = copy.graph.initializers[name]
        before = value.const_value
        assert before is not None
        array = np.array(parameter.detach().cpu().numpy(), order="C")  # a scalar stays one
        if not np.array_equal(array, before.numpy()):
            value.const_value = ir.tensor(array, name=name)
    return copy
