"""Why a place computes otherwise than the simulation: which operators do on their own, and what fusing them costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from fewbits.artifact.folder import temporary_folder
from fewbits.artifact.samples import Arrays
from fewbits.deployment.certificate import sqnr
from fewbits.deployment.cut import Runs, Tap, cut, differences, find_taps, tapped
from fewbits.deployment.place_certificate import Localized
from fewbits.deployment.places import Place, PlaceJob
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow.stages import Stages

MOST = 20
"""Tensors that a certificate names."""
_MOST_OPS = 12  # kinds of operators that are tapped alone: each is one more compilation


def localize(place: Place, job: PlaceJob, feed: Arrays, outputs: Sequence[str], stages: Stages) -> Localized:
    """Return where a place differs from the simulation, on one sample.

    Args:
        place: where to run.
        job: the artifact there; its folder is not used.
        feed: the sample.
        outputs: those that did not pass.
        stages: told of the stage.

    Raises:
        ModelError: the place does not take the model with its tensors as outputs.
    """
    with temporary_folder() as scratch:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(job.model)))
        look = _Look(place, job, feed, model, find_taps(model), scratch)
        kinds = list(dict.fromkeys(tap.op for tap in look.taps if tap.node))[:_MOST_OPS]
        with stages.stage("look where it differs", len(kinds) + 2) as told:
            exact, whole = look.run(look.taps, "whole")
            tensors = differences(look.taps, look.alone(exact, whole))
            told.advance(2)
            by_op: dict[str, tuple[Arrays, Arrays]] = {}
            for kind in kinds:
                by_op[kind] = look.run([tap for tap in look.taps if tap.op == kind], f"op{len(by_op)}")
                told.advance(1)
        plain = look.run([], "plain")
        found = {name: _db(plain, name) for name in outputs}
        worst = min(outputs, key=lambda name: float("inf") if found[name] is None else found[name] or 0.0)
        return Localized(
            output=worst,
            db=found[worst],
            tapped_db=_db((exact, whole), worst),
            tapped_by_op={kind: _db(pair, worst) for kind, pair in by_op.items()},
            tensors=tuple(tensors[:MOST]),
        )


@dataclass(frozen=True, slots=True)
class _Look:
    place: Place
    job: PlaceJob
    feed: Arrays
    model: onnx.ModelProto
    taps: list[Tap]
    scratch: Path

    def run(self, taps: list[Tap], name: str) -> tuple[Arrays, Arrays]:
        """Return what the simulation and the place answer with these taps as further outputs."""
        path = self.scratch / f"{name}.onnx"
        onnx.save(tapped(self.model, taps), str(path))
        return self._both(path, self.feed)

    def alone(self, exact: Arrays, whole: Arrays) -> Runs:
        """Give every operator what the simulation gives it."""
        apart, fed = cut(self.model, self.taps, exact)
        path = self.scratch / "cut.onnx"
        onnx.save(apart, str(path))
        feeds: Mapping[str, object] = {source: exact[output] for output, source in fed.items()}
        exact_alone, place_alone = self._both(path, {**self.feed, **feeds})  # type: ignore[dict-item]
        return Runs(exact, whole, exact_alone, place_alone)

    def _both(self, path: Path, feeds: Arrays) -> tuple[Arrays, Arrays]:
        folder = self.scratch / path.stem
        folder.mkdir()
        with self.place.open(replace(self.job, model=path, folder=folder)) as served:
            return open_session(path, policy=SessionPolicy.EXACT)(feeds), served(feeds)


def _db(pair: tuple[Arrays, Arrays], name: str) -> float | None:
    return sqnr([pair[0][name]], [pair[1][name]])
