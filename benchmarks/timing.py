"""Timing in turn: every action once per round, so that what slows the machine down slows all of them down.

Standard library only: the peers' environments import this file too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Feeds = Mapping[str, Any]
Action = Callable[[Sequence[Feeds]], object]

WARM_UP = 2


def interleave(actions: Mapping[str, Action], feeds: Sequence[Feeds], *, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each action on all `feeds`, one per round; each is first called on the first few."""
    for action in actions.values():
        action(feeds[:WARM_UP])
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            begin = time.perf_counter()
            action(feeds)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def summarize(seconds: Mapping[str, Sequence[float]], images: int, *, baseline: str) -> dict[str, dict[str, Any]]:
    """Return per action the median, the rate, and two ratios of its *time* to the baseline's.

    `ratio` is that of the medians; `paired` is the median of the rounds' own ratios, steadier on a busy machine.
    """
    base = seconds[baseline]
    return {
        name: {
            "median_s": median(values),
            "images_per_s": images / median(values),
            "ratio": median(values) / median(base),
            "paired": median(v / b for v, b in zip(values, base, strict=True)),
            "seconds": [round(v, 5) for v in values],
        }
        for name, values in seconds.items()
    }


def forward(run: Callable[[Feeds], object]) -> Action:
    """Return the action that runs every feed once."""

    def act(feeds: Sequence[Feeds]) -> None:
        for feed in feeds:
            run(feed)

    return act


def clock(action: Callable[[], object], *, repeats: int = 1) -> float:
    """Return the median seconds of `action`."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return median(taken)
