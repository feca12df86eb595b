"""Networks as a method that rounds finds them, and what its result is measured by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.graph.save import to_bytes
from fewbits.improvement.methods import Effort
from fewbits.improvement.result import Improved
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.numerics.affine import fake_quantize
from fewbits.numerics.output_error import RelativeOutputError
from fewbits.quantization.layers import find_layers
from fewbits.runtime.session import RunOptions
from fewbits.spec.encodings import Encoding
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import Quantized, quantize_calibrated

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_improve import round_model  # noqa: E402
from fewbits.improvement.torch_walk import Start  # noqa: E402
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch  # noqa: E402

EFFORTS = {
    "bias-correction": Effort(),
    "seq-mse": Effort(),
    "gptq": Effort(),
    "adaround": Effort(iterations=40),
    "adaround by block": Effort(granularity="block", iterations=20),
    "adaround, drop": Effort(iterations=40, drop=0.5),
    "adaround by block, drop": Effort(granularity="block", iterations=20, drop=0.5),
}
Feeds = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A network as a method finds it."""

    start: Start
    feeds: Feeds

    def improved(self, name: str, effort: Effort | None = None, store: RoundedStore | None = None) -> Improved:
        method = re.split("[ ,]", name)[0]
        return round_model(method, self.start, self.feeds, effort or EFFORTS[name], store=store)


def case_of(model: ir.Model | Path, data: Mapping[str, np.ndarray], precision: str = "w4a8", **options: object) -> Case:
    """Return a calibrated and quantized network with its data in batches of 24."""
    source = model if isinstance(model, Path) else to_bytes(model)
    calibration = calibrate(source, data=dict(data), batch_size=24, run_options=RunOptions(threads=1), **options)
    made: Quantized = quantize_calibrated(calibration, precision, ranges="minmax")
    start = Start(calibration.model, calibration.model, made.plan, made.encodings, made.encoded.biases)
    count = len(next(iter(data.values())))
    return Case(start, [{k: v[i : i + 24] for k, v in data.items()} for i in range(0, count, 24)])


def array(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def weights_of(case: Case) -> dict[str, tuple[str, Encoding]]:
    """Return layer -> name of its weight and the grid that the method found it on."""
    plan, found = case.start.plan, {}
    for layer in find_layers(case.start.reference.graph):
        key = plan.inputs[layer.node, 1]
        found[layer.node] = (plan.grids[key].tensor, case.start.encodings[key])
    return found


class Watcher:
    """Hook that keeps what every node reads and writes."""

    def __init__(self) -> None:
        self.reads: dict[tuple[str, int], torch.Tensor] = {}
        self.writes: dict[str, torch.Tensor] = {}

    def read(self, step, position, value):
        self.reads[step.name, position] = value
        return value

    def wrote(self, step, inputs, outputs):
        self.writes[step.name] = outputs[0]
        return outputs


def watched(model: ir.Model, feeds: Feeds) -> Watcher:
    watcher = Watcher()
    whole = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
    with torch.no_grad():
        TorchGraph(model).eval()(feeds_to_torch(whole), watcher)
    return watcher


def output_errors(case: Case, found: Improved, *, after_relu: bool) -> dict[str, tuple[float, float]]:
    """Return for every layer the mean squared error of its output: with the nearest codes, and as it was improved.

    What the layer reads is that of the improved model, which is what it read in the walk. Nearest codes get the bias
    that suits them best, so that it is codes that are compared.
    """
    floating, rounded = watched(case.start.reference, case.feeds), watched(found.model, case.feeds)
    graph_of = TorchGraph(found.model)
    steps = {step.name: step for step in graph_of.steps}
    errors = {}
    for node, (_, grid) in weights_of(case).items():
        step, wanted = steps[node], floating.writes[node]
        read = [rounded.reads[node, i] for i in range(len(step.reads))]
        nearest = torch.from_numpy(fake_quantize(floating.reads[node, 1].detach().numpy(), grid))
        values = dict(zip(step.reads, read, strict=True))
        with torch.no_grad():
            plain = graph_of.compute(step, {**values, step.reads[1]: nearest})[0]
        ours = rounded.writes[node]
        if len(step.reads) > 2 and step.call.op != "ConvTranspose":
            axes = [i for i in range(plain.ndim) if i != 1]
            plain = plain + (wanted - plain).mean(axes, keepdim=True)
        act = torch.relu if after_relu else torch.clone
        errors[node] = tuple(float((act(made) - act(wanted)).pow(2).mean()) for made in (plain, ours))
    return errors


def nearest(case: Case, model: ir.Model, *, biases: bool = False) -> ir.Model:
    """Return `model` with every weight on the grid that the method found, and the biases that were there if asked."""
    copy = model.clone()
    for tensor, grid in weights_of(case).values():
        copy.graph.initializers[tensor].const_value = ir.tensor(fake_quantize(array(copy, tensor), grid), name=tensor)
    for key, values in case.start.biases.items() if biases else ():
        tensor = case.start.plan.grids[key].tensor
        shape = array(copy, tensor).shape
        if values.size == array(copy, tensor).size:
            copy.graph.initializers[tensor].const_value = ir.tensor(values.reshape(shape), name=tensor)
    return copy


def network_error(case: Case, model: ir.Model) -> float:
    """Return the relative error of the outputs of a model whose activations are not rounded."""
    error = RelativeOutputError([str(value.name) for value in model.graph.outputs], "power")
    graphs = [TorchGraph(one).eval() for one in (case.start.reference, model)]
    for one in case.feeds:
        with torch.no_grad():
            wanted, given = ({k: v.numpy() for k, v in graph(feeds_to_torch(one)).items()} for graph in graphs)
        error.update(wanted, given)
    assert error.value is not None
    return error.value
