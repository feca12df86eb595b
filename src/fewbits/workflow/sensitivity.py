"""Verb one_pass: the sensitivity of every group in every precision, from one pass of the float model with gradients."""

import importlib.util
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from fewbits.analysis.sensitivity import Figure, Sensitivity
from fewbits.errors import MissingExtraError, MissingOperatorError, SpecError
from fewbits.numerics.channel_error import ChannelError
from fewbits.quantization.groups import find_groups
from fewbits.runtime.heap import trim_heap
from fewbits.runtime.progress import NullProgress, Progress
from fewbits.workflow.calibrate import LARGEST_BATCH, Calibration
from fewbits.workflow.quantized import Quantized

if TYPE_CHECKING:
    from fewbits.analysis.torch_sensitivity import OnePass

logger = logging.getLogger(__name__)

SAMPLES = 64
PROJECTIONS = 128
"""Samples x probes, at least: a figure's relative standard deviation is then about sqrt(2 / 128), 12 %."""
PROBES = (2, 16)
"""Probes per sample, at least and at most, where the caller leaves them to fewbits."""

_BATCH_FACTOR = 2
"""Samples at once, relative to calibration: there is much to do per batch, and only so much memory."""


def one_pass(
    calibration: Calibration,
    made: Sequence[Quantized],
    *,
    samples: int = SAMPLES,
    probes: int | None = None,
    outputs: Sequence[str] | None = None,
    device: str = "cpu",
    seed: int = 0,
    with_noise: bool = False,
    progress: Progress | None = None,
) -> Sensitivity:
    """Estimate the output error that each group causes when it alone is quantized, for every precision at once.

    Args:
        calibration: of the float model; its samples are used again.
        made: the whole network in each precision (see `quantize_calibrated`): their encodings are what is judged.
        samples: calibration samples to run, at most.
        probes: random projections of the output per sample; the relative standard deviation of a figure is about
            sqrt(2 / (samples x probes)). None takes 2, and up to 16 where there are few samples.
        outputs: the outputs whose error counts; None takes all float outputs that vary.
        device: where torch computes: cpu, cuda.
        seed: of the projections.
        with_noise: find out, too, what each tensor between two groups contributes.
        progress: told of each batch.

    Raises:
        MissingExtraError: torch is not installed.
        MissingOperatorError: the graph has an operator that the torch executor lacks.
        SpecError: no output, or an unknown one, is left to judge by; or one sample does not fit into the memory left.
    """
    need_torch()
    from fewbits.analysis.torch_deltas import Candidate
    from fewbits.analysis.torch_sensitivity import OnePass, module_of, threads

    graph, told = calibration.model.graph, progress or NullProgress()
    groups, (varied, total) = find_groups(graph, calibration.target), _varied(calibration, samples, outputs)
    probes = probes or min(max(PROBES[0], math.ceil(PROJECTIONS / total)), PROBES[1])
    candidates = [Candidate(str(q.profile), q.plan, q.encodings, q.encoded.biases) for q in made]
    module, ceiling = module_of(calibration.model, device), calibration.subject.ceiling

    def start() -> "OnePass":
        return OnePass(
            graph, module, groups, candidates, outputs=varied, samples=total, probes=probes, seed=seed,
            with_noise=with_noise, left=None if ceiling is None else lambda: ceiling.left_bytes,
        )  # fmt: skip

    with threads(calibration.subject.options.threads):
        found, count = _run(start, calibration, samples, told)
    figures = {key: Figure(error, deviation) for key, (error, deviation) in found.estimates().items()}
    return Sensitivity(
        method="one-pass", groups=groups, precisions=tuple(c.precision for c in candidates), samples=count,
        probes=probes, outputs=tuple(varied), figures=figures, noise=found.noise(),
    )  # fmt: skip


def choose_method(name: str, option: str) -> str:
    """Return one-pass or brute-force; "auto" is one-pass where torch is installed.

    Raises:
        SpecError: the name is unknown.
        MissingExtraError: one-pass was asked for, and torch is not installed.
    """
    if name not in ("auto", "one-pass", "brute-force"):
        raise SpecError(f"Unknown {option} {name!r}: write auto, one-pass or brute-force.")
    if name == "one-pass":
        need_torch()
    if name == "auto":
        return "brute-force" if importlib.util.find_spec("torch") is None else "one-pass"
    return name


def settle_method(asked: str, chosen: str, model: ir.Model) -> str:
    """Return the method that a prepared model can be ranked by.

    That is `chosen`, but brute force where the caller left the choice to fewbits, and torch's executor lacks an
    operator of the model; a warning then says which.
    """
    if asked != "auto" or chosen != "one-pass":
        return chosen
    from fewbits.runtime.torch_graph import check_operators

    try:
        check_operators(model.graph)
    except MissingOperatorError as error:
        logger.warning("Groups are ranked by brute force, which takes longer. %s", error)
        return "brute-force"
    return chosen


def need_torch() -> None:
    """Raise what the user needs to know where torch is missing.

    Raises:
        MissingExtraError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(
            "One-pass sensitivity needs torch: pip install 'fewbits[torch]', or measure by brute force instead."
        )


def _varied(
    calibration: Calibration, samples: int, outputs: Sequence[str] | None
) -> tuple[dict[str, ChannelError], int]:
    """Return the outputs to judge by, with the variance of their channels over the samples, and how many these are."""
    runner = calibration.subject.runner
    unknown = [name for name in outputs or () if name not in runner.output_names]
    if unknown:
        raise SpecError(f"The model has no output {unknown[0]!r}: it has {', '.join(runner.output_names)}.")
    found = {name: ChannelError() for name in (runner.output_names if outputs is None else outputs)}
    total = 0
    for batch in calibration.subject.data.batches(calibration.batch_size, samples):
        total += batch.size
        for name, value in runner.run(tuple(found), batch.feeds).items():
            if value.dtype.kind == "f":
                found[name].update(value, value)
    varied = {name: error for name, error in found.items() if error.variance is not None}
    if not varied:
        raise SpecError(
            f"No output to judge by: {', '.join(found)} hold no floats, or never change over {samples} samples."
        )
    return varied, total


def _run(
    start: "Callable[[], OnePass]", calibration: Calibration, samples: int, told: Progress
) -> "tuple[OnePass, int]":
    """Run batch by batch; one sample at a time where tensors do not tell the samples of a batch apart."""
    found, count = start(), 0
    first = next(calibration.subject.data.batches(1, 1))
    together = found.counts_samples(first.feeds, first.size)
    for size in dict.fromkeys((_at_once(calibration), 1) if together else (1,)):
        for batch in calibration.subject.data.batches(size, samples):
            if not found.add(batch.feeds, batch.size):
                break
            count += batch.size
            told.advance(batch.size)
            trim_heap()
        else:
            return found, count
        found, count = start(), 0
    raise SpecError(
        f"The model computes {batch.size} samples at once in tensors that do not keep them apart: fix its batch at 1 "
        f"with --dim, or measure by brute force."
    )


def _at_once(calibration: Calibration) -> int:
    """Return how many samples to run at once: what the caller said, or twice what calibration took."""
    usual = calibration.batch_size
    if calibration.subject.batch_size or usual == 1:
        return usual
    return min(_BATCH_FACTOR * usual, LARGEST_BATCH)
