"""Two streams through one graph: the float model, and the quantized model as far as it is finished.

Both go through the graph once, a range of nodes at a time over all samples, so that the time grows linearly with depth:
what a layer will really read is there when its turn comes, and what it should give, too. What no later node reads is
dropped, batch by batch as the nodes run; the rest lies in a `Cache`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.improvement.torch_cache import Cache
from fewbits.runtime.torch_graph import Hook, Step, TorchGraph, feeds_to_torch
from fewbits.runtime.torch_quantize import FakeQuantizer, QuantizedGraph
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role

Arrays = Mapping[str, npt.NDArray[np.generic]]
F32 = npt.NDArray[np.float32]
FLOAT, QUANTIZED = "float", "quantized"


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What an improvement begins with.

    Attributes:
        reference: the float model: what every layer should give.
        current: the same graph, perhaps with weights that were improved before.
        plan: made for `current`.
        encodings: grid key -> encoding.
        biases: bias grid key -> values that the quantized model holds in place of those of `current`.
    """

    reference: ir.Model
    current: ir.Model
    plan: Plan
    encodings: Mapping[str, Encoding]
    biases: Mapping[str, F32] = field(default_factory=dict)


@dataclass(eq=False)
class Walk:
    """The two streams, and the state of the quantized one.

    Args:
        start: models, plan and encodings.
        feeds: one per batch; read once, and not kept but in the cache.
        cache: where activations wait.
        device: where torch computes.

    Attributes:
        batches: numbers of the batches.
        encodings: grid key -> encoding, as improved so far.
        floating, quantized: the two graphs; parameters of the second change as layers are finished.
    """

    start: Start
    feeds: InitVar[Iterable[Arrays]]
    cache: Cache
    device: str = "cpu"
    batches: range = field(init=False)
    encodings: dict[str, Encoding] = field(init=False)
    floating: TorchGraph = field(init=False)
    quantized: QuantizedGraph = field(init=False)

    def __post_init__(self, feeds: Iterable[Arrays]) -> None:
        plan = self.start.plan
        self.encodings = dict(self.start.encodings)
        self.floating = TorchGraph(self.start.reference).eval().to(self.device)
        graph = TorchGraph(self.start.current).eval().to(self.device)
        self.quantized = QuantizedGraph(graph, plan, self.encodings).eval().to(self.device)
        # an int32 grid rounds far below everything else, and its scale follows the weight's, which is about to change
        self.quantized.switch(False, [key for key, grid in plan.grids.items() if grid.role is Role.BIAS])
        count = 0
        for batch, arrays in enumerate(feeds):
            count += 1
            for name, value in feeds_to_torch(arrays, self.device).items():
                for stream in (FLOAT, QUANTIZED):
                    self.cache.put(stream, name, batch, value)
        self.batches = range(count)

    @property
    def steps(self) -> Sequence[Step]:
        """The nodes, in the order of execution."""
        return self.quantized.graph.steps

    def graph_of(self, stream: str) -> TorchGraph:
        """Return the graph of a stream."""
        return self.floating if stream == FLOAT else self.quantized.graph

    def value(self, stream: str, name: str, batch: int) -> torch.Tensor:
        """Return what a tensor holds in a batch, or the constant of that name."""
        graph = self.graph_of(stream)
        fixed = graph.known(name)
        return self.cache.get(stream, name, batch) if fixed is None else fixed

    def seen(self, step: Step, position: int, batch: int) -> torch.Tensor:
        """Return what a node of the quantized model sees at an input: on its grid."""
        return self.quantized.read(step, position, self.value(QUANTIZED, step.reads[position], batch))

    def forward(self, stream: str, steps: Sequence[Step], drops: Collection[str] = ()) -> None:
        """Run nodes over all batches; what lies only between them is not kept.

        Args:
            stream: FLOAT or QUANTIZED.
            steps: consecutive nodes.
            drops: names of tensors of this stream that are needed no more once a batch has run.
        """
        freed = {name for step in steps for name in step.frees}
        with torch.no_grad():
            for batch in self.batches:
                made = self.run(stream, steps, batch)
                for name, value in made.items():
                    if name not in freed:
                        self.cache.put(stream, name, batch, value)
                for name in drops:
                    self.cache.drop(stream, name, batch)

    def run(
        self,
        stream: str,
        steps: Sequence[Step],
        batch: int,
        given: Mapping[str, torch.Tensor] | None = None,
        hook: Hook | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return every tensor that consecutive nodes make in one batch.

        Args:
            stream: FLOAT or QUANTIZED.
            steps: the nodes.
            batch: number of the batch.
            given: replaces what they would read.
            hook: of the quantized stream in place of its own.
        """
        graph = self.graph_of(stream)
        if hook is None and stream == QUANTIZED:
            hook = self.quantized
        values: dict[str, torch.Tensor] = dict(given or {})
        made: dict[str, torch.Tensor] = {}
        for step in steps:
            for name in step.reads:
                if name and name not in values:
                    values[name] = self.value(stream, name, batch)
            for name, value in zip(step.writes, graph.compute(step, values, hook), strict=False):
                if name and value is not None:
                    values[name] = made[name] = value
        return made

    def free(self, steps: Sequence[Step]) -> None:
        """Drop what no node after `steps` reads."""
        for step in steps:
            for name in step.frees:
                for batch in self.batches:
                    self.cache.drop(FLOAT, name, batch)
                    self.cache.drop(QUANTIZED, name, batch)

    def weight_key(self, node: str) -> str | None:
        """Return the grid key of the weight that a node reads, if it has a grid."""
        key = self.start.plan.inputs.get((node, 1))
        return key if key is not None and self.start.plan.grids[key].role is Role.WEIGHT else None

    def set_weight(self, key: str, values: F32, encoding: Encoding) -> None:
        """Give a weight of the quantized model new values, which lie on a new grid."""
        name = self.start.plan.grids[key].tensor
        self.set_values(name, values)
        self.encodings[key] = encoding
        shape = tuple(values.shape)
        self.quantized.quantizers.set_quantizer(key, FakeQuantizer(encoding, shape).to(self.device))

    def set_values(self, name: str, values: F32) -> None:
        """Give a parameter of the quantized model new values."""
        parameter = self.quantized.graph.known(name)
        assert parameter is not None
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(values)).reshape(parameter.shape))

    def values_of(self, name: str, stream: str = QUANTIZED) -> F32:
        """Return the values of a parameter of a stream."""
        parameter = self.graph_of(stream).known(name)
        assert parameter is not None
        return np.ascontiguousarray(parameter.detach().cpu().numpy())
