"""What this machine's processor does to integer arithmetic in ONNX Runtime."""

from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

_INPUTS = 64


@cache
def saturates() -> bool:
    """Whether a plain ONNX Runtime session clips uint8 x int8 products here: x86 processors without VNNI do.

    Their kernels add pairs of products in 16 bits, and 2 x 255 x 127 does not fit. Sessions of fewbits avoid it (see
    `SessionPolicy`); a user's own session gives other, usually worse, results than the model says, and than the device.
    """
    wide = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, _INPUTS])
    total = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])
    weight = helper.make_tensor("w", TensorProto.INT8, [_INPUTS, 1], [127] * _INPUTS)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "probe", [wide], [total], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, _INPUTS), 255, np.uint8)})
    return bool(found[0, 0] != _INPUTS * 255 * 127)
