"""The torch executor next to onnxruntime: float outputs, every quantized tensor fed onnxruntime's own, and end to end.

Float: SQNR of the outputs on a few samples. Each node: it reads what onnxruntime's exact simulation has upstream, and
what it writes is compared in steps of the tensor's grid. End to end: SQNR against the exact simulation, and the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import fewbits
import pipeline
import record
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.runtime.torch_graph import Step, TorchGraph, feeds_to_torch
from fewbits.runtime.torch_quantize import QuantizedGraph
from fewbits.workflow.sessions import with_outputs
from networks import NETWORKS, Network

LIMITS = {"float_db": 80.0, "within_1_lsb": 0.999}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="*", default=["w8a8", "w8a16"])
    parser.add_argument("--samples", type=int, default=8, help="samples of the comparison")
    parser.add_argument("--scored", action="store_true", help="score the simulation in torch, too (slow)")
    args = parser.parse_args()
    found = record.start("executor: torch against onnxruntime")
    torch.set_num_threads(args.threads)
    results = {}
    for name in args.networks:
        results[name] = compare(NETWORKS[name], args)
    record.save("executor", args, found, results)


def compare(network: Network, args: Any) -> dict[str, Any]:
    """Return all figures of one network."""
    options = RunOptions(threads=args.threads)
    calibration = fewbits.calibrate(
        network.path, data=lambda: network.calibration(64), target=pipeline.TARGET, samples=64, run_options=options
    )
    graph = TorchGraph(calibration.model).eval()
    feeds = [dict(b.feeds) for b in calibration.subject.data.batches(1, args.samples)]
    floats = [(calibration.subject.runner(f), run(graph, f)) for f in feeds]
    found: dict[str, Any] = {"float_db": worst_db(floats)}
    print(f"{network.name}: float {found['float_db']:.1f} dB", end="")
    for precision in args.precisions:
        made = fewbits.quantize_calibrated(calibration, precision, ranges="mse")
        sim = QuantizedGraph(graph, made.plan, made.encodings, made.encoded.biases).eval()
        exact = open_session(to_bytes(made.model), policy=SessionPolicy.EXACT, options=options)
        within, worst = by_node(made, sim, feeds, options)
        ends = worst_db([(exact(f), run(sim, f)) for f in feeds])
        found[precision] = {"within_1_lsb": within, "worst_tensor": worst, "end_to_end_db": ends}
        print(f"; {precision}: {100 * within[worst]:.3f} % within 1 LSB in the worst tensor ({worst}), "
              f"end to end {ends:.1f} dB", end="")  # fmt: skip
        if args.scored:
            found[precision]["score_torch"] = float(network.score(lambda f, sim=sim: run(sim, f)))
            found[precision]["score_ort"] = float(network.score(exact))
            print(
                f", score {found[precision]['score_torch']:.2f} (onnxruntime {found[precision]['score_ort']:.2f})",
                end="",
            )
        found[precision]["within_1_lsb"] = min(within.values())
    print()
    return found


def run(module: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the module's outputs as arrays."""
    with torch.no_grad():
        return {k: v.numpy() for k, v in module(feeds_to_torch(feeds)).items()}


def worst_db(pairs: Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> float:
    """Return the SQNR of the worst output over all samples."""
    joined = {k: [np.concatenate([pair[i][k].ravel() for pair in pairs]) for i in (0, 1)] for k in pairs[0][0]}
    return min(float(sqnr_db(wanted, given)) for wanted, given in joined.values())


@dataclass
class Teacher:
    """A hook that hands every node onnxruntime's own values, and counts how far the node's outputs are from them."""

    sim: QuantizedGraph
    taught: dict[str, torch.Tensor]
    near: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hand on what the simulation reads."""
        return self.sim.read(step, position, value)

    def wrote(self, step: Step, inputs: Any, outputs: Any) -> Any:
        """Compare what the simulation writes, and hand on what onnxruntime wrote."""
        found = list(self.sim.wrote(step, inputs, outputs))
        for i, name in enumerate(step.writes[: len(found)]):
            key = self.sim.plan.outputs.get(name)
            if key is not None and found[i] is not None:
                right, scale = self.taught[name], self.sim.quantizer(key).scale
                steps = torch.round((found[i] - right) / scale)
                self.near[name] = self.near.get(name, 0) + int((steps.abs() <= 1).sum())
                self.seen[name] = self.seen.get(name, 0) + right.numel()
                found[i] = right
        return tuple(found)


def by_node(
    made: fewbits.Quantized, sim: QuantizedGraph, feeds: Sequence[dict[str, np.ndarray]], options: RunOptions
) -> tuple[dict[str, float], str]:
    """Return tensor -> share of its elements within one step of onnxruntime's, and the worst tensor."""
    ends = {v.name for v in made.model.graph.outputs}
    names = {name: name if name in ends else f"{name}_dq" for name in made.plan.outputs}
    wide = with_outputs(made.model, tuple(names.values()))
    runner = open_session(to_bytes(wide), policy=SessionPolicy.EXACT, options=options)
    teacher = Teacher(sim, {})
    for feed in feeds:
        values = runner(feed)
        teacher.taught = {name: torch.from_numpy(np.array(values[out])) for name, out in names.items()}
        with torch.no_grad():
            sim.graph(feeds_to_torch(feed), teacher)
    shares = {name: teacher.near[name] / teacher.seen[name] for name in teacher.near}
    return shares, min(shares, key=shares.__getitem__)


if __name__ == "__main__":
    main()
