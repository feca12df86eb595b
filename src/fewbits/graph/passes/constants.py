"""Constant nodes become initializers, so that later passes find every constant in one place."""

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from fewbits.graph.naming import all_nodes
from fewbits.graph.passes.base import PassResult, Skipped, is_onnx

NAME = "constants-to-initializers"


def run(model: ir.Model) -> PassResult:
    """Turn each Constant node into an initializer of the same name; one that is a graph output stays a node."""
    before = [str(node.name) for node in all_nodes(model) if is_onnx(node, "Constant")]
    if not before:
        return PassResult()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    left = {str(node.name) for node in all_nodes(model) if is_onnx(node, "Constant")}
    changed = tuple(f"Constant {name!r} is now an initializer" for name in before if name not in left)
    reason = "it is an output of its graph, or holds something else than one tensor"
    return PassResult(changed, tuple(Skipped(name, reason) for name in before if name in left))
