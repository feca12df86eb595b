"""The error of a quantized model's outputs on calibration samples, remembered by what it depends on."""

from typing import cast

from fewbits.reporting.record import versions
from fewbits.runtime.session import Runner
from fewbits.runtime.store import Store, key_of
from fewbits.spec.precision import FP16
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.content_keys import model_key, plan_key
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.sessions import open_graph


def measured_error(
    judge: OutputJudge, calibration: Calibration, made: Quantized, *, with_torch: bool, store: Store
) -> float:
    """Return the error of the outputs of a model, relative to their variance.

    Args:
        judge: which outputs on which samples.
        calibration: what the model was made from.
        made: the model.
        with_torch: let the torch executor answer where nodes run in float16: onnxruntime computes them in float32.
        store: what was measured before is taken from there.

    Raises:
        ModelError: the model cannot be run.
    """
    is_torch = with_torch and any(node.precision == FP16 for node in made.plan.nodes.values())
    content = (model_key(calibration.model), plan_key(made.plan, made.encoded))
    key = key_of("measured error", versions(), content, judge.identity, is_torch)

    def measure() -> float:
        if not is_torch:
            return judge.error(open_graph(made.model, calibration.subject.options))
        from fewbits.analysis.torch_sensitivity import threads
        from fewbits.runtime.torch_run import QuantizedRunner

        with threads(calibration.subject.options.threads):
            runner = QuantizedRunner(calibration.model, made.plan, made.encodings, made.encoded.biases)
            return judge.error(cast("Runner", runner))

    return float(store.remember(key, measure))
