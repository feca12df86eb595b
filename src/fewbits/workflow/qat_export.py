"""From a quantized model to a module that trains, and from there to the ordinary artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.artifact.folder import staged
from fewbits.improvement.methods import Kind
from fewbits.improvement.result import Improved
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.workflow.calibrate import Calibration, calibrate_subject
from fewbits.workflow.finish import finish
from fewbits.workflow.improve_models import improved_subject
from fewbits.workflow.quantize import QuantizeResult
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.scoring import MetricLike, check_metric, open_scoring
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.writing import Options

if TYPE_CHECKING:
    from fewbits.training.torch_trainable import Trainable


@dataclass(frozen=True, slots=True, eq=False)
class Exporter:
    """What the export of a trained module needs to know; copies of a module share it.

    Attributes:
        calibration: of the float model that training started from.
        made: its quantized form.
        options: what the module was made with, by name.
    """

    calibration: Calibration
    made: Quantized
    options: Options

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exporter":
        return self

    def export(
        self,
        module: "Trainable",
        output: str | Path,
        *,
        metric: MetricLike | None = None,
        higher_is_better: bool | None = None,
        eval_data: DataLike | None = None,
        eval_samples: int | None = None,
        preprocess: Preprocess | None = None,
        progress: Watcher | None = None,
    ) -> QuantizeResult:
        """Write the artifact of a module as it is now, score the file that was written, and record the run.

        Raises:
            FewbitsError: training diverged, an option cannot be used, or the folder cannot be written.
        """
        from fewbits.training.torch_qat import on_grids

        given = {
            "output": output, "metric": metric, "higher_is_better": higher_is_better, "eval_data": eval_data,
            "eval_samples": eval_samples,
        }  # fmt: skip
        options, samples = {**self.options, **given}, self.options["samples"]
        named, stages = check_metric(metric, higher_is_better), Stages(progress)
        trained = module.finish()
        model = on_grids(trained.model, self.made.plan, trained.pinned)
        subject = improved_subject(self.calibration.subject, Improved(model, trained.pinned), Kind.TRAIN)
        with staged(output) as folder:
            scoring = open_scoring(
                subject, samples=samples, eval_data=eval_data, metric=named, eval_samples=eval_samples,
                preprocess=preprocess,
            )  # fmt: skip
            calibration = calibrate_subject(subject, samples=samples, stages=stages)
            made = quantize_calibrated(calibration, self.made.profile, bias_correction=False)
            with stages.stage("score float", scoring.limit) as told:
                before = scoring.score_float(told)
            done = finish("qat", folder, calibration, scoring, made, before=before, stages=stages, options=options)
        return QuantizeResult(
            done.score, before, done.drop, made, done.record, Path(output), calibration, scoring
        )  # fmt: skip
