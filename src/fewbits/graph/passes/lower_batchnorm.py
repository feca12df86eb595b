"""A BatchNormalization that no weight could take in becomes what it is in inference: Mul and Add with constants."""

import onnx_ir as ir

from fewbits.graph.naming import unique_name, value_names
from fewbits.graph.passes.base import Declined, PassResult, Skipped, add_initializer, is_onnx, take_over
from fewbits.graph.passes.batchnorm import affine

NAME = "lower-batchnorm"


def run(model: ir.Model) -> PassResult:
    """Replace each BatchNormalization by Mul + Add with constants [C, 1, ...]; the Add keeps both its names."""
    changed, declined = [], []
    for node in [node for node in model.graph if is_onnx(node, "BatchNormalization")]:
        name = str(node.name)
        try:
            _lower(model, node)
        except Declined as reason:
            declined.append(Skipped(name, str(reason)))
            continue
        changed.append(f"BatchNormalization {name!r} became Mul and Add")
    return PassResult(tuple(changed), tuple(declined))


def _lower(model: ir.Model, node: ir.Node) -> None:
    scale, shift = affine(node)
    source = node.inputs[0]
    if source is None or source.shape is None or source.dtype is None or len(source.shape) < 2:
        raise Declined("the rank or type of its input is not known")
    shape, dtype = (-1, *[1] * (len(source.shape) - 2)), source.dtype.numpy()
    factor = add_initializer(model, f"{node.name}_scale", scale.reshape(shape).astype(dtype))
    offset = add_initializer(model, f"{node.name}_shift", shift.reshape(shape).astype(dtype))
    taken = {str(other.name) for other in model.graph}
    mul = ir.node("Mul", [source, factor], name=unique_name(f"{node.name}_mul", taken))
    mul.outputs[0].name = unique_name(f"{node.outputs[0].name}_scaled", value_names(model))
    mul.outputs[0].shape, mul.outputs[0].type = source.shape, source.type
    add = ir.node("Add", [mul.outputs[0], offset], name=node.name)
    assert node.graph is not None
    node.graph.insert_after(node, [mul, add])
    take_over(node.outputs[0], add.outputs[0])
