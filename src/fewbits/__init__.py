"""fewbits finds the fewest bits a trained network can run in without losing the accuracy its owner needs.

The verbs are functions of the same names and options as the commands: `convert`, `prepare`, `inspect`, `quantize`,
`baseline`, `evaluate`, `export`, `verify`, `targets`. `calibrate` and `quantize_calibrated` are `quantize` in two
steps, for several precisions from one calibration. Names are imported when they are first used, so that `import
fewbits` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BaselineResult": "workflow.baseline",
    "Calibration": "workflow.calibrate",
    "ConvertResult": "workflow.convert",
    "FewbitsError": "errors",
    "Precision": "spec.precision",
    "Preprocess": "runtime.data",
    "Profile": "quantization.profile",
    "QuantizeResult": "workflow.quantize",
    "Quantized": "workflow.quantized",
    "RunOptions": "runtime.session",
    "baseline": "workflow.baseline",
    "calibrate": "workflow.calibrate",
    "convert": "workflow.convert",
    "evaluate": "workflow.evaluate",
    "export": "workflow.export",
    "inspect": "workflow.inspect",
    "prepare": "workflow.prepare",
    "quantize": "workflow.quantize",
    "quantize_calibrated": "workflow.quantized",
    "targets": "workflow.targets",
    "verify": "workflow.verify",
}

__all__ = [
    "BaselineResult",
    "Calibration",
    "ConvertResult",
    "FewbitsError",
    "Precision",
    "Preprocess",
    "Profile",
    "QuantizeResult",
    "Quantized",
    "RunOptions",
    "baseline",
    "calibrate",
    "convert",
    "evaluate",
    "export",
    "inspect",
    "prepare",
    "quantize",
    "quantize_calibrated",
    "targets",
    "verify",
]

if TYPE_CHECKING:
    from fewbits.errors import FewbitsError
    from fewbits.quantization.profile import Profile
    from fewbits.runtime.data import Preprocess
    from fewbits.runtime.session import RunOptions
    from fewbits.spec.precision import Precision
    from fewbits.workflow.baseline import BaselineResult, baseline
    from fewbits.workflow.calibrate import Calibration, calibrate
    from fewbits.workflow.convert import ConvertResult, convert
    from fewbits.workflow.evaluate import evaluate
    from fewbits.workflow.export import export
    from fewbits.workflow.inspect import inspect
    from fewbits.workflow.prepare import prepare
    from fewbits.workflow.quantize import QuantizeResult, quantize
    from fewbits.workflow.quantized import Quantized, quantize_calibrated
    from fewbits.workflow.targets import targets
    from fewbits.workflow.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fewbits.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
