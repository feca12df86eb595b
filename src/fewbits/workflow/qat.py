"""Verb qat: step 5 of the workflow, without labels and without a training loop of the user's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fewbits.improvement.methods import Effort
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.training.schedule import Training
from fewbits.workflow.calibrate import SAMPLES
from fewbits.workflow.improve import ImproveResult, run_verb
from fewbits.workflow.scoring import MetricLike
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Watcher
from fewbits.workflow.writing import Options

PRECISION = "w4a8"
QAT = "gptq,qat"
"""Where training starts matters most where weights are narrow, and gptq takes seconds."""


def train(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    methods: Sequence[str] | str = QAT,
    training: Training | None = None,
    effort: Effort | None = None,
    clips: str = "exact",
    score_each: bool = False,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    eval_data: DataLike | None = None,
    profile: Mapping[str, str] | str | Path | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    progress: Watcher | None = None,
) -> ImproveResult:
    """Train the quantized model to give what the float model gives, on unlabelled data.

    Methods named before qat, which is last, make what training starts from; `training` says how long and how fast. The
    artifact has the trained weights, biases and scales; grids of weights and activations are pinned for every later
    verb. The other arguments are those of `improve`; needs torch.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name != "progress"}
    return run_verb("qat", {**options, "auto": False}, progress)
