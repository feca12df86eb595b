"""Calibration by several workers: each observes a few batches; what it saw of them comes back and is joined in order.

The data are read here, once, as for one process: workers get the very batches that one process would run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.quantization.observe import Feeds, Part, Watchlist, observe_part
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import Runner, RunOptions
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.workers_sent import SentModel, on_threads

_PART_SAMPLES = 16
"""Samples of one job, at least: what it gives back, a histogram of each tensor, should be small beside its work."""

_Batches = tuple[tuple[Feeds, int], ...]


def observed_parts(
    model: ir.Model, options: RunOptions, watch: Watchlist, batches: Iterable[tuple[Feeds, int]], workers: Workers
) -> Iterator[Part]:
    """Yield what workers saw of the batches, in the order of these.

    Args:
        model: the float model, which hands out all that is watched.
        options: how it runs.
        watch: what to look at.
        batches: feeds, each with its number of samples.
        workers: who runs it.

    Raises:
        DataError: the data cannot be used, or a tensor becomes NaN or Inf on them.
        SpecError: there are no such workers.
    """
    early: dict[int, Part] = {}
    due = 0
    with workers.team(
        lambda: _Observer(open_graph(model, options), watch), lambda: _recipe(model, options, watch)
    ) as team:
        for index, part in team.map(_observe, _jobs(batches)):
            early[index] = part
            while due in early:
                yield early.pop(due)
                due += 1


def _jobs(batches: Iterable[tuple[Feeds, int]]) -> Iterator[tuple[int, _Batches]]:
    """Yield (number of the first sample, batches)."""
    first, count, held = 0, 0, list[tuple[Feeds, int]]()
    for feeds, size in batches:
        held.append((feeds, size))
        count += size
        if count >= _PART_SAMPLES:
            yield first, tuple(held)
            first, count, held = first + count, 0, []
    if held:
        yield first, tuple(held)


@dataclass(frozen=True, slots=True, eq=False)
class _Observer:
    runner: Runner
    watch: Watchlist


@dataclass(frozen=True, slots=True, eq=False)
class _ObserverRecipe:
    model: SentModel
    watch: Watchlist
    options: RunOptions

    def open(self, threads: int) -> _Observer:
        return _Observer(self.model.open(on_threads(self.options, threads)), self.watch)


def _recipe(model: ir.Model, options: RunOptions, watch: Watchlist) -> _ObserverRecipe:
    return _ObserverRecipe(SentModel(model), watch, options)


def _observe(observer: _Observer, job: tuple[int, _Batches]) -> Part:
    first, batches = job
    return observe_part(observer.runner.run, observer.watch, batches, first, observer.runner.split)
