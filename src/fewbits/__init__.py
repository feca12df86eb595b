"""fewbits finds the fewest bits a trained network can run in without losing the accuracy its owner needs.

The verbs are functions of the same names and options as the commands: `auto`, `latency`, `convert`, `prepare`,
`inspect`, `quantize`, `baseline`, `analyze`, `litemp`, `amp`, `adaround`, `improve`, `evaluate`, `export`, `verify`,
`lint`, `compile`, `estimate`, `submit`, `apply_encodings`, `import_qdq` (the command `import`), `runs`, `report`,
`compare` (the command `report --compare`), `targets`, `chips`.
`calibrate` and `quantize_calibrated` are `quantize` in two steps, for several precisions from one calibration;
`brute_force` measures how sensitive each group of operators is; `Effort` is what `adaround` and `improve` spend. `qat`
is a module: `qat.train` is the command of that name, and `Training` what it spends. Names are imported when first
used, so that `import fewbits` costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# onnxruntime's official builds from 1.29 on send Microsoft what they run, unless this is set before they are imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_HOMES = {
    "BaselineResult": "workflow.baseline",
    "Calibration": "workflow.calibrate",
    "ConvertResult": "workflow.convert",
    "Effort": "improvement.methods",
    "FewbitsError": "errors",
    "AmpResult": "workflow.amp",
    "AnalysisResult": "workflow.analyze",
    "AutoResult": "workflow.auto",
    "ImproveResult": "workflow.improve",
    "LitempResult": "workflow.litemp",
    "Precision": "spec.precision",
    "Preprocess": "runtime.data",
    "Profile": "quantization.profile",
    "Training": "training.schedule",
    "QuantizeResult": "workflow.quantize",
    "Quantized": "workflow.quantized",
    "RunOptions": "runtime.session",
    "adaround": "workflow.improve",
    "amp": "workflow.amp",
    "analyze": "workflow.analyze",
    "apply_encodings": "workflow.adopt",
    "auto": "workflow.auto",
    "baseline": "workflow.baseline",
    "brute_force": "workflow.brute_force",
    "calibrate": "workflow.calibrate",
    "chips": "workflow.targets",
    "compare": "workflow.report",
    "compile": "workflow.compile",
    "convert": "workflow.convert",
    "estimate": "workflow.compile",
    "evaluate": "workflow.evaluate",
    "export": "workflow.export",
    "import_qdq": "workflow.adopt",
    "improve": "workflow.improve",
    "inspect": "workflow.inspect",
    "latency": "workflow.auto_latency",
    "lint": "workflow.lint",
    "litemp": "workflow.litemp",
    "prepare": "workflow.prepare",
    "qat": "workflow.qat",
    "quantize": "workflow.quantize",
    "quantize_calibrated": "workflow.quantized",
    "report": "workflow.report",
    "runs": "workflow.runs",
    "submit": "workflow.submit",
    "targets": "workflow.targets",
    "verify": "workflow.verify",
}

__all__ = [
    "AmpResult",
    "AnalysisResult",
    "AutoResult",
    "BaselineResult",
    "Calibration",
    "ConvertResult",
    "Effort",
    "FewbitsError",
    "ImproveResult",
    "LitempResult",
    "Precision",
    "Preprocess",
    "Profile",
    "QuantizeResult",
    "Quantized",
    "RunOptions",
    "Training",
    "adaround",
    "amp",
    "analyze",
    "apply_encodings",
    "auto",
    "baseline",
    "brute_force",
    "calibrate",
    "chips",
    "compare",
    "compile",
    "convert",
    "estimate",
    "evaluate",
    "export",
    "import_qdq",
    "improve",
    "inspect",
    "latency",
    "lint",
    "litemp",
    "prepare",
    "qat",
    "quantize",
    "quantize_calibrated",
    "report",
    "runs",
    "submit",
    "targets",
    "verify",
]

if TYPE_CHECKING:
    from fewbits.errors import FewbitsError
    from fewbits.improvement.methods import Effort
    from fewbits.quantization.profile import Profile
    from fewbits.runtime.data import Preprocess
    from fewbits.runtime.session import RunOptions
    from fewbits.spec.precision import Precision
    from fewbits.training.schedule import Training
    from fewbits.workflow import qat
    from fewbits.workflow.adopt import apply_encodings, import_qdq
    from fewbits.workflow.amp import AmpResult, amp
    from fewbits.workflow.analyze import AnalysisResult, analyze
    from fewbits.workflow.auto import AutoResult, auto
    from fewbits.workflow.auto_latency import latency
    from fewbits.workflow.baseline import BaselineResult, baseline
    from fewbits.workflow.brute_force import brute_force
    from fewbits.workflow.calibrate import Calibration, calibrate
    from fewbits.workflow.compile import compile, estimate  # noqa: A004
    from fewbits.workflow.convert import ConvertResult, convert
    from fewbits.workflow.evaluate import evaluate
    from fewbits.workflow.export import export
    from fewbits.workflow.improve import ImproveResult, adaround, improve
    from fewbits.workflow.inspect import inspect
    from fewbits.workflow.lint import lint
    from fewbits.workflow.litemp import LitempResult, litemp
    from fewbits.workflow.prepare import prepare
    from fewbits.workflow.quantize import QuantizeResult, quantize
    from fewbits.workflow.quantized import Quantized, quantize_calibrated
    from fewbits.workflow.report import compare, report
    from fewbits.workflow.runs import runs
    from fewbits.workflow.submit import submit
    from fewbits.workflow.targets import chips, targets
    from fewbits.workflow.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
    home = importlib.import_module(f"fewbits.{_HOMES[name]}")
    value = home if name == "qat" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
