"""A module in training against the file that it exports: every node, end to end, and what saving and loading keep.

A few dozen steps of distillation on real data, then the export. Each node: it is fed what onnxruntime computes upstream
in the exported file (policy exact), and what it writes is compared in steps of the tensor's grid. onnxruntime computes
fp16 nodes in float32 and removes the rounding to float16 that the file asks for, which the module does: of those nodes
the SQNR against onnxruntime is given, and the share of onnxruntime's values that are float16 numbers. End to end:
scores of the module in evaluation mode and of the file. Kept: the file written again from its own folder, a module made
from that folder, and the state loaded into a new module must have the same bits.
"""

import io
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import fewbits
import record
from executor import run
from fewbits.artifact import names
from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import SqnrAccumulator
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.runtime.torch_graph import Step, TorchGraph, feeds_to_torch
from fewbits.spec.plan import Plan
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_samples import Samples
from fewbits.training.torch_trainable import Trainable
from fewbits.workflow.qat import trainable
from fewbits.workflow.sessions import with_outputs
from fewbits.workflow.source import open_source
from networks import NETWORKS, RESNET20, Network, Predict

TARGET = "qnn-htp-v73"
LIMIT = 0.999
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A network in a precision, where every node whose number modulo 5 is in `mixed` has that precision instead."""

    network: Network
    precision: str
    mixed: Mapping[int, str] = field(default_factory=dict)
    samples: int = 256
    batch_size: int = 16
    compared: int = 8

    def profile(self) -> dict[str, str]:
        """Return node name -> precision."""
        if not self.mixed:
            return {}
        nodes = enumerate(open_source(self.network.path).model.graph)
        return {str(node.name): self.mixed[i % 5] for i, node in nodes if i % 5 in self.mixed}


MIXED = {1: "w8a16", 3: "fp16"}
IMDN: dict[str, Any] = {"samples": 5, "batch_size": 1, "compared": 2}
CASES = {
    "resnet20 w4a8": Case(RESNET20, "w4a8"),
    "resnet20 w4a16": Case(RESNET20, "w4a16"),
    "resnet20 w8a16": Case(RESNET20, "w8a16"),
    "resnet20 mixed": Case(RESNET20, "w8a8", MIXED),
    "kwt1 w8a8": Case(NETWORKS["kwt1"], "w8a8"),
    "kwt1 mixed": Case(NETWORKS["kwt1"], "w8a8", MIXED),
    "imdn w8a8": Case(NETWORKS["imdn"], "w8a8", **IMDN),
}


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=40, help="training steps")
    args = parser.parse_args()
    found = record.start(f"qat parity: {args.steps} steps, {args.threads} threads")
    torch.set_num_threads(args.threads)
    results = {}
    for name in args.case:
        begin = time.perf_counter()
        results[name] = compare(CASES[name], args.steps, RunOptions(threads=args.threads))
        results[name]["wall_s"] = time.perf_counter() - begin
        show(name, results[name])
        record.save("qat_parity", args, found, results)


def compare(case: Case, steps: int, options: RunOptions) -> dict[str, Any]:
    """Return all figures of one case."""
    given: dict[str, Any] = {
        "precision": case.precision, "profile": case.profile(), "samples": case.samples, "target": TARGET,
        "run_options": options, "data": lambda: case.network.calibration(case.samples),
    }  # fmt: skip
    module = trainable(case.network.path, **given)
    losses = train(module, case, steps)
    with tempfile.TemporaryDirectory(prefix="fewbits.") as scratch:
        folder = Path(scratch) / "out"
        module.export(folder, metric=lambda _: 0.0, higher_is_better=True)
        feeds = list(itertools.islice(singles(case.network), case.compared))
        stored = (folder / names.ARTIFACT).read_bytes()
        nodes = by_node(module, stored, feeds, options)
        exact = open_session(stored, policy=SessionPolicy.EXACT, options=options)
        scores = scored(case.network, module, exact)
        kept = what_is_kept(module, case, given, folder, feeds)
    return {"steps": steps, "loss_first": losses[0], "loss_last": losses[-1], **nodes, **scores, "kept": kept}


def singles(network: Network) -> Iterator[Arrays]:
    """Yield calibration samples one by one."""
    for feeds in network.calibration():
        count = len(next(iter(feeds.values())))
        yield from ({name: value[i : i + 1] for name, value in feeds.items()} for i in range(count))


def train(module: Trainable, case: Case, steps: int) -> list[float]:
    """Distill the float model into the module in place; return the loss of every step."""
    teacher = TorchGraph(open_source(case.network.path).model).eval()
    samples = Samples(case.network.calibration(case.samples), case.batch_size)
    pair = Distillation(module, teacher, teacher.output_names)
    pair.prepare(samples)
    optimizer = torch.optim.Adam(module.parameter_groups(1e-4, scale_lr=1e-3))
    losses = []
    module.train()
    for batch in itertools.islice(samples.forever(0), steps):
        optimizer.zero_grad()
        loss = pair.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    module.eval()
    return losses


@dataclass
class Fed:
    """A hook that hands every node onnxruntime's own values, and counts how far the node's outputs are from them.

    Attributes:
        module: what is compared.
        theirs: tensor -> what onnxruntime computed.
        counts: tensor with a grid -> elements that are equal, within one step, and all.
        halves: tensor of an fp16 node -> its SQNR so far.
        rounded: of the values of onnxruntime in `halves`, those that are float16 numbers, and all.
    """

    module: Trainable
    theirs: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    halves: dict[str, SqnrAccumulator] = field(default_factory=dict)
    rounded: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hand on what the module reads."""
        return self.module.read(step, position, value)

    def wrote(self, step: Step, inputs: Any, outputs: Any) -> Any:
        """Compare what the module writes, and hand on what onnxruntime wrote."""
        found = list(self.module.wrote(step, inputs, outputs))
        for i, name in enumerate(step.writes[: len(found)]):
            if name in self.theirs and found[i] is not None:
                self.count(name, found[i], self.theirs[name])
                found[i] = self.theirs[name]
        return tuple(found)

    def count(self, name: str, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        """Add the elements of one tensor."""
        key = self.module.plan.outputs.get(name)
        if key is None:
            self.halves.setdefault(name, SqnrAccumulator()).update(theirs.numpy(), mine.numpy())
            self.rounded += [int((theirs.half().float() == theirs).sum()), theirs.numel()]
            return
        off = (mine.double() - theirs.double()).abs() / self.module.quantizer(key).encoding().scale.item()
        both = [int((off < 1e-3).sum()), int((off < 1.001).sum()), theirs.numel()]
        self.counts[name] = self.counts.get(name, np.zeros(3, np.int64)) + both


def by_node(module: Trainable, stored: bytes, feeds: list[Arrays], options: RunOptions) -> dict[str, Any]:
    """Return the shares of elements that are equal, and within one step, over all tensors and in the worst."""
    model = load_model(stored)
    where = handed_on(module, model)
    wide = with_outputs(model, tuple(where.values()))
    runner = open_session(to_bytes(wide), policy=SessionPolicy.EXACT, options=options)
    fed = Fed(module)
    for one in feeds:
        values = runner(one)
        fed.theirs = {name: torch.from_numpy(np.array(values[out], np.float32)) for name, out in where.items()}
        with torch.no_grad():
            module.graph(feeds_to_torch(one), fed)
    return told(fed)


def told(fed: Fed) -> dict[str, Any]:
    """Return the figures of all tensors and of the worst."""
    counts, total = fed.counts, np.sum(list(fed.counts.values()), axis=0)
    worst = min(counts, key=lambda name: (counts[name][1] / counts[name][2], counts[name][0] / counts[name][2]))
    found: dict[str, Any] = {
        "tensors": len(counts), "elements": int(total[2]), "equal": float(total[0] / total[2]),
        "within_1": float(total[1] / total[2]), "worst": worst, "worst_op": written_by(fed.module, worst),
        "worst_within_1": float(counts[worst][1] / counts[worst][2]),
        "worst_equal": float(counts[worst][0] / counts[worst][2]),
    }  # fmt: skip
    if fed.halves:
        least = min(fed.halves, key=lambda name: fed.halves[name].db)
        found["fp16"] = {
            "tensors": len(fed.halves), "worst": least, "worst_op": written_by(fed.module, least),
            "worst_db": fed.halves[least].db, "ort_rounds": float(fed.rounded[0] / fed.rounded[1]),
        }  # fmt: skip
    return found


def written_by(module: Trainable, name: str) -> str:
    """Return the operator that writes a tensor."""
    return next(step.call.op for step in module.graph.steps if name in step.writes)


def handed_on(module: Trainable, model: Any) -> dict[str, str]:
    """Return what onnxruntime can be asked for: tensor of the float graph -> name of it in the exported one.

    Only what has a grid, or is float16: what stays in float32 is computed on both sides from what is handed on.
    """
    plan: Plan = module.plan
    there = {str(value.name) for node in model.graph for value in node.outputs}
    ends = {str(value.name) for value in model.graph.outputs}
    halves = {name for name, node in plan.nodes.items() if str(node.precision) == "fp16"}
    found = {}
    for step in module.graph.steps:
        for name in step.writes:
            key = plan.outputs.get(name)
            if key is None and step.name not in halves:
                continue
            also = [f"{name}_fp16"] if key is None else [f"{key}_clipped_dq", f"{key}_dq"]
            wanted = [name] if name in ends or key is None else []
            chosen = next((one for one in (*wanted, *also) if one in there), None)
            if chosen is not None:
                found[name] = chosen
    return found


def scored(network: Network, module: Trainable, exact: Predict) -> dict[str, Any]:
    """Return both scores, and the share of samples (of pixels, for images) whose decision is the same."""
    theirs: list[npt.NDArray[Any]] = []
    same: list[npt.NDArray[np.bool_]] = []

    def file(feeds: Arrays) -> Arrays:
        outputs = exact(feeds)
        theirs.append(decisions(next(iter(outputs.values()))))
        return outputs

    left = iter(theirs)

    def mine(feeds: Arrays) -> Arrays:
        outputs = run(module, feeds)
        same.append((decisions(next(iter(outputs.values()))) == next(left)).ravel())
        return outputs

    scores = {"score_ort": network.score(file), "score_torch": network.score(mine)}
    alike = np.concatenate(same)
    return {**scores, "decisions": len(alike), "same_decisions": int(alike.sum())}


def decisions(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the classes of logits, the 8-bit pixels of images."""
    return output.argmax(1) if output.ndim == 2 else np.round(output.clip(0, 1) * 255)


def what_is_kept(
    module: Trainable, case: Case, given: dict[str, Any], folder: Path, feeds: list[Arrays]
) -> dict[str, bool]:
    """Return what has the same bits after a round through the output folder, and through `state_dict`."""
    again = folder.with_name("again")
    fewbits.quantize(folder, **given, output=again, metric=lambda _: 0.0, higher_is_better=True)
    reopened = trainable(folder, **given).eval()
    mine, theirs = module.finish().encodings, reopened.finish().encodings
    pins = mine.keys() == theirs.keys() and all(
        np.array_equal(e.scale, theirs[k].scale) and np.array_equal(e.zero_point, theirs[k].zero_point)
        for k, e in mine.items()
    )
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    fresh = trainable(case.network.path, **given).eval()
    before = same_bits(fresh, module, feeds)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return {
        "file": (again / names.ARTIFACT).read_bytes() == (folder / names.ARTIFACT).read_bytes(), "pins": pins,
        "folder": same_bits(reopened, module, feeds), "state": same_bits(fresh, module, feeds), "untrained": before,
    }  # fmt: skip


def same_bits(one: Trainable, other: Trainable, feeds: list[Arrays]) -> bool:
    """Say whether two modules give the same bits on every sample."""
    pairs = ((run(one, feed), run(other, feed)) for feed in feeds)
    return all(value.tobytes() == b[name].tobytes() for a, b in pairs for name, value in a.items())


def show(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: loss {found['loss_first']:.4g} -> {found['loss_last']:.4g}, {found['wall_s']:.0f} s")
    print(
        f"{found['tensors']} tensors, {100 * found['equal']:.4f} % equal; worst: {found['worst']} "
        f"({found['worst_op']}), "
        f"{100 * found['worst_within_1']:.4f} % within 1, {100 * found['worst_equal']:.4f} % equal: "
        f"{record.verdict(found['worst_within_1'] >= LIMIT)}; fp16: {found.get('fp16')}"
    )
    print(
        f"score {found['score_torch']:.4f}, of the file {found['score_ort']:.4f}; "
        f"{found['same_decisions']} of {found['decisions']} decisions are the same; kept: {found['kept']}\n"
    )


if __name__ == "__main__":
    main()
