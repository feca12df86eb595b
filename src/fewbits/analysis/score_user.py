"""Metrics in the user's code: any function `NAME(predict) -> float`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.analysis.score_types import Predict, Score
from fewbits.errors import MetricError, SpecError
from fewbits.runtime.data.items import as_array
from fewbits.runtime.data.types import Array, Dataset
from fewbits.runtime.data.userfile import definition_place, load_user_function, required_parameters, user_code
from fewbits.runtime.progress import Progress

_LOWER_WORDS = frozenset(
    [
        "loss",
        "error",
        "err",
        "mse",
        "rmse",
        "mae",
        "perplexity",
        "ppl",
        "wer",
        "cer",
        "fid",
        "lpips",
        "distance",
        "latency",
    ]
)


@dataclass(frozen=True, slots=True)
class UserMetric:
    """A function that runs the model on its own data and returns one number.

    Attributes:
        name: as the user wrote it.
        function: takes predict(feeds) -> outputs, returns a number.
        higher_is_better: direction.
        path: of its file, whose folder is on sys.path while it runs; None where it was given as an object.
    """

    name: str
    function: Callable[[Predict], Any]
    higher_is_better: bool = True
    path: Path | None = None
    needs_labels: bool = False
    needs_float: bool = False
    unit: str = ""

    def score(
        self,
        predict: Predict,
        data: Dataset,
        *,
        limit: int | None = None,
        batch_size: int | None = None,
        reference: Predict | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Call the function; it reads its own data, so `data`, `limit` and `batch_size` do not reach it.

        Raises:
            MetricError: it failed, or returned no number; with file and line.
        """

        def watched(feeds: Mapping[str, Any]) -> Mapping[str, Array]:
            arrays = {name: as_array(value, f"Metric {self.name!r}, input {name!r}") for name, value in feeds.items()}
            outputs = predict(arrays)
            if progress is not None:
                first = next(iter(arrays.values()), None)
                progress.advance(len(first) if first is not None and first.ndim else 1)
            return outputs

        with user_code(f"Metric {self.name!r}", error=MetricError, folder=self.path and self.path.parent):
            returned = self.function(watched)
        return Score(self._number(returned))

    def _number(self, returned: Any) -> float:
        try:
            if returned is None or isinstance(returned, str | bytes):
                raise TypeError(f"{type(returned).__name__} is no number")
            value = float(returned)
        except (TypeError, ValueError, RuntimeError):
            value = float("nan")
        if value != value:  # noqa: PLR0124 - NaN is the only number that differs from itself
            raise MetricError(
                f"Metric {self.name!r} ({definition_place(self.function)}) returned {returned!r}: it must return a "
                "number."
            )
        return value


def user_metric(source: str | Callable[[Predict], Any], higher_is_better: bool | None) -> UserMetric:
    """Return the metric of `file.py:function`, or of a function.

    The direction is what the caller says, or else the function's attribute `higher_is_better`, or else up.

    Raises:
        MetricError: there is no such function, or it does not take `predict`.
        SpecError: the direction is not said and the name (loss, error, ...) suggests that lower is better.
    """
    path = None
    if isinstance(source, str):
        loaded = load_user_function(source, error=MetricError)
        function, path, name, word = loaded.function, loaded.path, source, loaded.name
    else:
        function, name = source, str(getattr(source, "__qualname__", type(source).__name__))
        word = name.rpartition(".")[2]
    if len(needed := required_parameters(function)) > 1:
        raise MetricError(
            f"Metric {name!r} must take predict alone, but it needs {', '.join(map(repr, needed))}: give the others "
            "defaults, or wrap it."
        )
    if higher_is_better is None:
        higher_is_better = getattr(function, "higher_is_better", None)
    if higher_is_better is None and _LOWER_WORDS & set(re.split(r"[\W_]+", word.lower())):
        raise SpecError(
            f"Metric {name!r} sounds as if lower were better, and its direction was not said: pass "
            "--lower-is-better or --higher-is-better (higher_is_better=False or True in Python)."
        )
    return UserMetric(name, function, higher_is_better is not False, path)
