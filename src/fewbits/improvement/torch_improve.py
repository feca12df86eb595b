"""Methods that round: a quantized model in, one with better weights out, folded and pinned."""

from collections.abc import Callable, Iterable, Mapping

import torch

from fewbits.errors import SpecError
from fewbits.improvement.closed_form import LayerMethod, gptq, search_scale
from fewbits.improvement.layer_case import Rounded
from fewbits.improvement.methods import Effort
from fewbits.improvement.result import OUT_OF_TIME, Improved
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.improvement.torch_bias import OutputCheck, correct_bias
from fewbits.improvement.torch_cache import open_cache
from fewbits.improvement.torch_layers import LayerWalk, improve_layers
from fewbits.improvement.torch_walk import Arrays, Start, Walk
from fewbits.runtime.progress import Progress
from fewbits.runtime.torch_fold import folded
from fewbits.runtime.torch_graph import Step
from fewbits.spec.plan import Role

CLOSED: dict[str, LayerMethod] = {"seq-mse": search_scale, "gptq": gptq}
BIAS = "bias-correction"


def round_model(
    name: str,
    start: Start,
    feeds: Iterable[Arrays],
    effort: Effort,
    *,
    store: RoundedStore | None = None,
    is_late: Callable[[], bool] = bool,
    progress: Progress | None = None,
) -> Improved:
    """Return the current model with weights improved by one method, and the grids that they are pinned to.

    Args:
        name: bias-correction, seq-mse, gptq or adaround.
        start: the float model, the current one, plan and encodings.
        feeds: calibration data, one entry per batch; read once.
        effort: how much of what to spend.
        store: keeps finished layers, so that a run that was stopped goes on there.
        is_late: whether the time is up; layers that were not begun by then are left, and declined.
        progress: told of every layer.

    Raises:
        SpecError: the device is not there.
        ModelError: the graph has an operator that the torch executor lacks.
        OutputError: activations that do not fit under the ceiling cannot be written.
    """
    check_device(effort.device)
    with open_cache(effort.ceiling) as cache:
        walk = Walk(start, feeds, cache, effort.device)
        is_dropping = name == "adaround" and effort.drop > 0
        if not (effort.with_activations or is_dropping):
            _switch_activations_off(walk)
        layers = LayerWalk(walk, effort.seed, is_late, keeps_inputs=is_dropping)
        method = _method(name, effort, store or RoundedStore())
        check = OutputCheck(walk) if name == BIAS else None
        if name == "adaround" and effort.granularity == "block":
            from fewbits.improvement.torch_blocks import improve_blocks

            found = improve_blocks(layers, effort, store or RoundedStore(), progress=progress)
        else:
            found = improve_layers(layers, method, to_end=check is not None, progress=progress)
        if check is not None and found and (reason := check.objection()):
            return Improved(walk.start.current, declined=dict.fromkeys(found, reason) | _left(layers, found))
        return _improved(walk, layers, found)


def _method(name: str, effort: Effort, store: RoundedStore) -> Callable[[LayerWalk, Step], Rounded]:
    def closed(layers: LayerWalk, step: Step) -> Rounded:
        def make() -> Rounded:
            case = layers.case(step)
            return case.with_bias(CLOSED[name](case))

        return store.remember(step.name, make)

    def corrected(layers: LayerWalk, step: Step) -> Rounded:
        return store.remember(step.name, lambda: correct_bias(layers, step))

    def learned(layers: LayerWalk, step: Step) -> Rounded:
        from fewbits.improvement.torch_adaround import learn_layer

        return store.remember(step.name, lambda: learn_layer(layers, step, effort))

    return corrected if name == BIAS else closed if name in CLOSED else learned


def _improved(walk: Walk, layers: LayerWalk, found: dict[str, Rounded]) -> Improved:
    pinned, errors = {}, {}
    layers.restore(found)
    for node, rounded in found.items():
        key = walk.weight_key(node)
        assert key is not None
        pinned[walk.start.plan.grids[key].tensor] = walk.encodings[key]
        errors[node] = (rounded.before, rounded.after)
    model = folded(walk.start.current, walk.quantized.graph)
    return Improved(model, pinned, tuple(found), _left(layers, found), errors)


def _left(layers: LayerWalk, found: Mapping[str, Rounded]) -> dict[str, str]:
    """Return why layers that are not in `found` are left."""
    unreached = {node: OUT_OF_TIME for node in layers.layers if node not in found and node not in layers.declined}
    return layers.declined | unreached


def _switch_activations_off(walk: Walk) -> None:
    roles = (Role.ACTIVATION, Role.CONSTANT)
    walk.quantized.switch(False, [key for key, grid in walk.start.plan.grids.items() if grid.role in roles])


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        SpecError: torch does not know it, or finds no such GPU.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise SpecError(f"{device!r} is no device: write cpu or cuda.")
    if found.type == "cpu":
        return
    if not torch.cuda.is_available():
        raise SpecError(f"There is no device {device!r}: torch finds no GPU on this machine. Write cpu.")
    if (found.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"There is no device {device!r}: torch finds {torch.cuda.device_count()} of them. Write cuda.")
