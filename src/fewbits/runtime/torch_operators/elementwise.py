"""Arithmetic, element by element: functions of one tensor, and of several that broadcast."""

import functools
from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import is_readable, needed, of_one, of_two, scalar, together
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def div(call: Call, inputs: Inputs) -> torch.Tensor:
    """Divide; integers are cut off towards zero. Source: ONNX Div-14."""
    numerator, denominator = together(call, inputs)
    if numerator.is_floating_point():
        return numerator / denominator
    return torch.div(numerator, denominator, rounding_mode="trunc")


def mod(call: Call, inputs: Inputs) -> torch.Tensor:
    """Remainder with the divisor's sign, or with the dividend's where `fmod` is set. Source: ONNX Mod-13."""
    dividend, divisor = together(call, inputs)
    return (torch.fmod if call.attributes.get("fmod", 0) else torch.remainder)(dividend, divisor)


def power(call: Call, inputs: Inputs) -> torch.Tensor:
    """Raise to a power; the result has the base's type. Source: ONNX Pow-15."""
    base, exponent = needed(call, inputs), needed(call, inputs, 1)
    is_number = is_readable(exponent) and exponent.numel() == 1 and exponent.ndim <= base.ndim
    if is_number and base.is_floating_point():  # torch squares and takes roots faster where it sees the number
        return torch.pow(base, scalar(exponent))
    base, exponent = together(call, inputs)
    exponent = exponent.to(base.dtype) if base.is_floating_point() else exponent
    return torch.pow(base, exponent).to(base.dtype)


def smallest(call: Call, inputs: Inputs) -> torch.Tensor:
    """Minimum of all inputs. Source: ONNX Min-13."""
    return functools.reduce(torch.minimum, together(call, inputs))


def largest(call: Call, inputs: Inputs) -> torch.Tensor:
    """Maximum of all inputs. Source: ONNX Max-13."""
    return functools.reduce(torch.maximum, together(call, inputs))


def add_all(call: Call, inputs: Inputs) -> torch.Tensor:
    """Sum of all inputs. Source: ONNX Sum-13."""
    return functools.reduce(torch.add, together(call, inputs))


def mean(call: Call, inputs: Inputs) -> torch.Tensor:
    """Mean of all inputs. Source: ONNX Mean-13."""
    return add_all(call, inputs) / len(inputs)


def bit_shift(call: Call, inputs: Inputs) -> torch.Tensor:
    """Shift bits of unsigned integers. Source: ONNX BitShift-11."""
    values, amounts = together(call, inputs)
    is_left = call.attributes["direction"] == "LEFT"
    return (torch.bitwise_left_shift if is_left else torch.bitwise_right_shift)(values, amounts)


OPERATORS: Mapping[str, Operator] = {
    "Add": of_two(torch.add),
    "Sub": of_two(torch.sub),
    "Mul": of_two(torch.mul),
    "Div": div,
    "Mod": mod,
    "Pow": power,
    "Min": smallest,
    "Max": largest,
    "Sum": add_all,
    "Mean": mean,
    "Abs": of_one(torch.abs),
    "Neg": of_one(torch.neg),
    "Sign": of_one(torch.sign),
    "Reciprocal": of_one(torch.reciprocal),
    "Sqrt": of_one(torch.sqrt),
    "Exp": of_one(torch.exp),
    "Log": of_one(torch.log),
    "Erf": of_one(torch.erf),
    "Floor": of_one(torch.floor),
    "Ceil": of_one(torch.ceil),
    "Round": of_one(torch.round),
    "Sin": of_one(torch.sin),
    "Cos": of_one(torch.cos),
    "Tan": of_one(torch.tan),
    "Asin": of_one(torch.asin),
    "Acos": of_one(torch.acos),
    "Atan": of_one(torch.atan),
    "Sinh": of_one(torch.sinh),
    "Cosh": of_one(torch.cosh),
    "Asinh": of_one(torch.asinh),
    "Acosh": of_one(torch.acosh),
    "Atanh": of_one(torch.atanh),
    "BitwiseAnd": of_two(torch.bitwise_and),
    "BitwiseOr": of_two(torch.bitwise_or),
    "BitwiseXor": of_two(torch.bitwise_xor),
    "BitwiseNot": of_one(torch.bitwise_not),
    "BitShift": bit_shift,
}
