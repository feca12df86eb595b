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
import sys
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
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.runtime.torch_graph import TorchGraph
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_samples import Samples
from fewbits.training.torch_trainable import Trainable
from fewbits.workflow.qat import trainable
from fewbits.workflow.source import open_source
from networks import NETWORKS, RESNET20, Network, Predict

sys.path.insert(0, str(record.HERE.parent / "tests" / "workflow"))
from qat_parity_cases import Fed, fed_by_onnxruntime

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
        nodes = told(fed_by_onnxruntime(module, stored, feeds, options))
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


def told(fed: Fed) -> dict[str, Any]:
    """Return the figures of all tensors and of the worst."""
    counts, total, halves = fed.counts, np.sum(list(fed.counts.values()), axis=0), fed.halves
    worst = min(counts, key=lambda name: (counts[name][1] / counts[name][2], counts[name][0] / counts[name][2]))
    found: dict[str, Any] = {
        "tensors": len(counts), "elements": int(total[2]), "equal": fed.equal(),
        "within_1": float(total[1] / total[2]), "worst": worst, "worst_op": written_by(fed.module, worst),
        "worst_within_1": float(counts[worst][1] / counts[worst][2]),
        "worst_equal": float(counts[worst][0] / counts[worst][2]),
    }  # fmt: skip
    if halves:
        least = min(halves, key=lambda name: halves[name])
        found["fp16"] = {
            "tensors": len(halves), "worst": least, "worst_op": written_by(fed.module, least),
            "worst_db": halves[least], "ort_rounds": float(fed.rounded[0] / fed.rounded[1]),
        }  # fmt: skip
    return found


def written_by(module: Trainable, name: str) -> str:
    """Return the operator that writes a tensor."""
    return next(step.call.op for step in module.graph.steps if name in step.writes)


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
