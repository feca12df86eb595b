"""ONNX operators in torch, differentiable where their mathematics is: a function each, listed in `table.OPERATORS`."""
