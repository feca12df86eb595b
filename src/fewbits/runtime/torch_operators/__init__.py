"""ONNX operators in torch, differentiable where their mathematics is: one function each, listed in `table.OPERATORS`."""
