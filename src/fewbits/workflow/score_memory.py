"""Scores that are remembered by the content of the file that was scored, and of everything else that they depend on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.analysis.evaluate import Evaluation
from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.reporting.record import machine, versions
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store, key_of
from fewbits.workflow.content_keys import model_key, scoring_key
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.subject import Subject


@dataclass(slots=True, eq=False)
class ScoreMemory:
    """Scores by content; one that is made without arguments remembers nothing.

    Attributes:
        store: of the run.
        how: content hash of metric, data, float model, versions and machine; None where nothing tells whether they
            are the same another time: then nothing is remembered.
        runs: how many scores were not remembered.
    """

    store: Store | None = None
    how: str | None = None
    runs: int = field(default=0, init=False)

    @classmethod
    def open(cls, store: Store, scoring: Scoring, subject: Subject) -> "ScoreMemory":
        """Return the memory of the scores of models that are derived from one float model."""
        key = scoring_key(scoring)
        if key is None:
            return cls()
        reference = model_key(subject.reference_model) if scoring.metric.needs_float else ""
        return cls(store, key_of(key, reference, versions(), machine(), _options(subject.options)))

    def remember(self, content: str, score: Callable[[], Evaluation]) -> Evaluation:
        """Return the score of a model with a content hash; it is found out where it is not known."""
        known = self.get(content)
        return self.put(content, score()) if known is None else known

    def get(self, content: str) -> Evaluation | None:
        """Return the score that is remembered of a content hash, or None."""
        if self.store is None or self.how is None:
            return None
        found = self.store.get(key_of("score", self.how, content))
        return None if found is None else _read(found)

    def put(self, content: str, score: Evaluation) -> Evaluation:
        """Remember a score, and return it."""
        self.runs += 1
        if self.store is not None and self.how is not None:
            self.store.put(key_of("score", self.how, content), _plain(score))
        return score


def artifact_hash(folder: Path) -> str:
    """Return the content hash of the artifact in a folder."""
    files = [folder / name for name in (names.ARTIFACT, names.ARTIFACT + names.DATA_SUFFIX)]
    return key_of([sha256(file) for file in files if file.is_file()])


def _options(options: RunOptions) -> tuple[str | int, ...]:
    provider, *libraries = options.identity()
    return provider, options.threads, *libraries


def _plain(score: Evaluation) -> dict[str, Any]:
    parts = None if score.per_sample is None else score.per_sample.tolist()
    return {
        "value": score.value, "metric": score.metric, "unit": score.unit, "samples": score.samples,
        "higher_is_better": score.higher_is_better, "seconds": score.seconds, "per_sample": parts,
    }  # fmt: skip


def _read(found: dict[str, Any]) -> Evaluation:
    parts = found["per_sample"]
    return Evaluation(**{**found, "per_sample": None if parts is None else np.array(parts, dtype=np.float64)})
