"""aimet-onnx's automatic mixed precision, as its guides run it: greedy, binary search, optimized first phase.

Run by benchmarks/peers/.venvs/aimet/bin/python. Its first phase judges every quantizer group at every candidate by the
SQNR of the outputs on the calibration samples (its guides' quick choice; so is `phase1_optimize`, its default), its
second every point of its search by the network's own score on all the evaluation data. Everything it is called back
for is counted and timed here; nothing of the algorithm is changed. Bit operations are those of fewbits: for every
layer, MACs x bits of the first input x bits of the second, which for float16 are 16 each and for what no quantizer
reaches 32.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import aimet_onnx.mixed_precision as amp
import common
import numpy as np
import onnx
from aimet_onnx.amp.mixed_precision_algo import EvalCallbackFactory, GreedyMixedPrecisionAlgo
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.defs import CallbackFunc, QuantizationDataType, QuantScheme, int8
from aimet_onnx.quantsim import QuantizationSimModel

from networks import NETWORKS, Network

INT, FLOAT = QuantizationDataType.int, QuantizationDataType.float
CANDIDATES = {
    "w8a8": ((8, INT), (8, INT)),
    "w8a16": ((16, INT), (8, INT)),
    "w16a16": ((16, INT), (16, INT)),
    "fp16": ((16, FLOAT), (16, FLOAT)),
}
"""Activation first, then weight, as AIMET wants them."""
SCHEMES = {"min_max": QuantScheme.min_max, "tf_enhanced": QuantScheme.post_training_tf_enhanced}
DROPS = {"imdn": 0.1, "stories": 0.13125}
"""Allowed drop in the unit of the score where it is not 0.5: dB, and 3 % of the float perplexity."""
DROP = 0.5
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NOT_QUANTIZED = 32
FULL, SAMPLES, CALIBRATION = "full", "samples", "calibration"

Layer = dict[str, Any]


class OutOfTimeError(Exception):
    """The limit was reached in one of the callbacks."""


@dataclass
class Log:
    """What AIMET called back for: kind, stage, seconds and score of every call."""

    watch: common.Stopwatch
    begin: float
    limit: float
    cpu_begin: float = field(default_factory=time.process_time)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def call(self, kind: str, action: Any) -> float:
        """Run and time one callback, unless time is up.

        Raises:
            OutOfTimeError: the limit is behind us.
        """
        start = time.perf_counter()
        if self.limit and start - self.begin > self.limit:
            raise OutOfTimeError
        value = float(action() or 0.0)
        row = {"kind": kind, "stage": self.watch.stage, "seconds": time.perf_counter() - start}
        self.calls.append(row if kind == CALIBRATION else {**row, "score": value})
        if kind == FULL:
            print(f"{start - self.begin:7.1f} s  {self.watch.stage}: {value:.3f}", file=sys.stderr, flush=True)
        return value

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return number and seconds of the calls of every kind, in all and by stage."""
        found: dict[str, dict[str, Any]] = {}
        for kind in (FULL, SAMPLES, CALIBRATION):
            rows = [r for r in self.calls if r["kind"] == kind]
            stages = Counter(r["stage"] for r in rows)
            found[kind] = {"number": len(rows), "seconds": sum(r["seconds"] for r in rows), "stages": dict(stages)}
        return found


class Data:
    """Batches of calibration data, as AIMET's SQNR callback wants its loader."""

    def __init__(self, batches: list[common.Feeds]) -> None:
        self.batches = batches
        self.sizes = [len(next(iter(b.values()))) for b in batches]
        self.batch_size = max(self.sizes)

    def __iter__(self) -> Any:
        return iter(self.batches)


@dataclass
class Search:
    """One search: what it is given, its callbacks, and what it leaves behind, however it ends."""

    args: argparse.Namespace
    network: Network
    data: Data
    log: Log
    drop: float
    folder: Path
    outputs: list[str] = field(default_factory=list)
    sim: Any = None
    algorithm: Any = None

    @property
    def sign(self) -> float:
        """Return what makes a score one of which more is better, which AIMET expects."""
        return 1.0 if self.network.higher_is_better else -1.0

    def calibrate(self, session: Any, _: Any = None) -> None:
        """Run the calibration samples."""
        self.log.call(CALIBRATION, lambda: [session.run(None, feeds) for feeds in self.data.batches] and None)

    def score(self, session: Any, _: Any = None) -> float:
        """Return the network's score on all its data, more being better."""
        return self.log.call(FULL, lambda: self.sign * self.measured(session))

    def measured(self, session: Any) -> float:
        """Return the network's score as it is, uncounted."""
        return self.network.score(lambda feeds: dict(zip(self.outputs, session.run(None, feeds), strict=True)))


def main() -> None:
    """Run the task that the command line names and write its answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["search", "versions"])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet56")
    parser.add_argument("--drop", type=float, help="allowed drop, in the unit of the score; default: this file's")
    parser.add_argument("--candidates", nargs="+", choices=sorted(CANDIDATES), default=["w8a8", "w8a16", "fp16"])
    parser.add_argument("--scheme", choices=sorted(SCHEMES), default="min_max", help="AIMET's default: min_max")
    parser.add_argument("--samples", type=int, default=64, help="for calibration and for the SQNR of the first phase")
    parser.add_argument("--limit", type=float, default=0.0, help="seconds after which the search is stopped; 0: never")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--macs", type=Path, help="JSON: name of a layer -> its multiply-accumulates, from fewbits")
    parser.add_argument("--output", type=Path, required=True, help="where the answer goes, as JSON")
    args = parser.parse_args()
    answer = search(args) if args.task == "search" else {}
    answer["versions"] = {p: metadata.version(p) for p in ("aimet-onnx", "onnxruntime", "onnx", "numpy", "torch")}
    args.output.write_text(json.dumps(answer, indent=1) + "\n")


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the search cost and what it chose; a crash or a limit is an answer too."""
    network = NETWORKS[args.network]
    start = time.perf_counter()
    data = Data(list(network.calibration(args.samples)))
    answer: dict[str, Any] = {"data_s": time.perf_counter() - start, "samples": sum(data.sizes)}
    drop = DROPS.get(network.name, DROP) if args.drop is None else args.drop
    answer |= {"drop_allowed": drop, "candidates": args.candidates, "scheme": args.scheme}
    watch = common.Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        it = Search(args, network, data, Log(watch, time.perf_counter(), args.limit), drop, Path(folder))
        try:
            build(it)
            run(it)
            answer |= {"finished": True, "outcome": outcome(it)}
        except OutOfTimeError:
            answer |= {"finished": False, "outcome": f"stopped after {args.limit:g} s", "stage": watch.stage}
        except Exception as error:  # whatever the tool raises is what its user sees
            answer |= {"finished": False, "outcome": "crashed", "stage": watch.stage}
            answer["error"] = f"{type(error).__name__}: {error}"
            frames = traceback.extract_tb(error.__traceback__)
            answer["raised_at"] = [f"{Path(f.filename).name}:{f.lineno} {f.name}: {f.line}" for f in frames[-4:]]
        answer |= {"total_s": time.perf_counter() - it.log.begin, "cpu_s": time.process_time() - it.log.cpu_begin}
        answer |= {"seconds": dict(watch.seconds), "evaluations": it.log.counts()}
        answer["scores"] = [{**c, "score": it.sign * c["score"]} for c in it.log.calls if c["kind"] == FULL]
        answer["its_curve"] = curve(it)
    if it.algorithm is not None:
        answer |= progress(it)
    if answer["finished"]:
        answer |= final(it)
    return answer


def build(it: Search) -> None:
    """Build and calibrate the simulation, as its guides do before the search."""
    with it.log.watch("build"):
        model = onnx.load(str(it.network.path))
        it.outputs = [o.name for o in model.graph.output]
        fold_all_batch_norms_to_weight(model)
        it.sim = QuantizationSimModel(
            model,
            param_type=int8,
            activation_type=int8,
            quant_scheme=SCHEMES[it.args.scheme],
            config_file="htp_v73",
            dummy_input={k: v[:1] for k, v in it.data.batches[0].items()},
            providers=["CPUExecutionProvider"],
            session_options_kwargs={"intra_op_num_threads": it.args.threads},
        )
        it.sim.compute_encodings(it.calibrate)


def run(it: Search) -> None:
    """Run AIMET's search on the simulation, with a stopwatch at its phases."""
    watch = it.log.watch

    def timed(stage: str, action: Any) -> Any:
        with watch(stage):
            result = action()
        watch.stage = "search"
        return result

    class Watched(GreedyMixedPrecisionAlgo):  # type: ignore[misc]
        def run(self, *given: Any, **named: Any) -> Any:
            it.algorithm = self
            return super().run(*given, **named)

        def set_baseline(self, *given: Any, **named: Any) -> Any:
            return timed("baseline", lambda: super(Watched, self).set_baseline(*given, **named))

        def _create_and_save_accuracy_list(self, *given: Any, **named: Any) -> Any:
            return timed("sensitivity", lambda: super(Watched, self)._create_and_save_accuracy_list(*given, **named))

        def _create_pareto_front_list(self, *given: Any, **named: Any) -> Any:
            return timed("pareto", lambda: super(Watched, self)._create_pareto_front_list(*given, **named))

    factory = EvalCallbackFactory(it.data, forward_fn=lambda session, feeds: session.run(None, feeds)[0])
    sqnr = factory.sqnr(it.sim, num_samples=sum(it.data.sizes))
    amp.GreedyMixedPrecisionAlgo = Watched
    begin = time.perf_counter()
    try:
        amp.choose_mixed_precision(
            it.sim,
            [CANDIDATES[name] for name in it.args.candidates],
            CallbackFunc(lambda session, _: it.log.call(SAMPLES, lambda: sqnr(session))),
            CallbackFunc(it.score),
            it.drop,
            results_dir=str(it.folder),
            clean_start=True,
            forward_pass_callback=CallbackFunc(it.calibrate),
        )
    finally:
        watch.seconds["search"] = time.perf_counter() - begin


def outcome(it: Search) -> str:
    """Return in words how the search ended."""
    if it.algorithm.accuracy_list is not None:
        return "searched"
    if it.algorithm.fp32_accuracy - it.algorithm.min_accuracy < it.drop:
        return f"no search: {precision(*it.algorithm.min_candidate)}, to it the lowest precision, suffices everywhere"
    return "no search: not even its best precision suffices everywhere"


def progress(it: Search) -> dict[str, Any]:
    """Return how far the search came: scores of the uniform candidates, groups and their sensitivities."""
    algorithm = it.algorithm
    scores = {precision(*candidate): it.sign * value for value, candidate in algorithm._eval_scores}
    found: dict[str, Any] = {"groups_total": len(algorithm.quantizer_groups), "uniform": scores}
    if algorithm.fp32_accuracy is not None:
        found["float_score"] = it.sign * algorithm.fp32_accuracy
    if algorithm.baseline_candidate is not None:
        found["its_baseline"] = precision(*algorithm.baseline_candidate)
    if algorithm.min_candidate is not None:
        found["its_lowest"] = precision(*algorithm.min_candidate)
    if algorithm.accuracy_list is not None:
        found["sensitivities"] = [
            {"group": group.to_list()[0][1], "candidate": precision(*candidate), "sqnr_db": float(value)}
            for group, candidate, value, _ in algorithm.accuracy_list
        ]
    return found


def curve(it: Search) -> list[dict[str, float]]:
    """Return the points of its second phase that it saved: relative bit operations as it counts them, and scores."""
    path = it.folder / "pareto_list.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return [{"relative_bit_operations": row[0], "score": it.sign * row[1]} for row in rows]


def final(it: Search) -> dict[str, Any]:
    """Return score, precisions and bit operations of the simulation that the search left behind."""
    algorithm, sim = it.algorithm, it.sim
    start = time.perf_counter()
    value = it.measured(sim.session)
    found: dict[str, Any] = {
        "check_s": time.perf_counter() - start,
        "score": value,
        "its_score": None if algorithm._final_eval_score is None else it.sign * algorithm._final_eval_score,
        "drop": algorithm.fp32_accuracy - it.sign * value,
    }
    groups = [described(group, sim) for group in algorithm.quantizer_groups]
    shared = Counter(id(q) for q in sim.qc_quantize_op_dict.values() if q.enabled)
    found |= {"groups": groups, "precisions": dict(Counter(g["precision"] for g in groups))}
    found["tied_quantizers"] = sum(number for number in shared.values() if number > 1)
    layers = layers_of(sim)
    found["layers_of_two_kinds"] = [row["name"] for row in layers if len(set(row["kinds"])) > 1]
    if it.args.macs is not None:
        found |= priced(layers, json.loads(it.args.macs.read_text()))
    return {**found, "layers": layers}


def precision(activation: tuple[Any, Any] | None, weight: tuple[Any, Any] | None = None) -> str:
    """Return the name of a candidate, or of what a group has now: one half where it has no weights, or only weights."""
    halves = [
        f"{letter}{'fp' if half[1] == FLOAT else ''}{half[0]}"
        for letter, half in (("w", weight), ("a", activation))
        if half is not None and half[0] is not None
    ]
    return "fp16" if halves == ["wfp16", "afp16"] else "".join(halves)


def described(group: Any, sim: Any) -> dict[str, Any]:
    """Return one quantizer group and the precision that its quantizers have now."""
    quantizers = sim.qc_quantize_op_dict
    widths = {
        kind: sorted({(q.bitwidth, q.data_type.name) for n in names if (q := quantizers[n]).enabled})
        for kind, names in (("activation", group.activation_quantizers), ("weight", group.parameter_quantizers))
    }
    sides = [(w[0][0], QuantizationDataType[w[0][1]]) if (w := widths[k]) else None for k in ("activation", "weight")]
    return {
        "activations": list(group.activation_quantizers),
        "weights": list(group.parameter_quantizers),
        "precision": precision(*sides),
        "mixed_inside": any(len(w) > 1 for w in widths.values()),
    }


def layers_of(sim: Any) -> list[Layer]:
    """Return all layers that multiply and add: the widths of the quantizers that reach their two factors."""
    rows = []
    for op in sim.connected_graph.ordered_ops:
        if op.type not in LAYERS:
            continue
        factors = [sim._get_enabled_quantizer(tensor.name) for tensor in op.inputs[:2]]
        kinds = ["float" if q is None or q.data_type == FLOAT else "int" for q in factors]
        bits = [NOT_QUANTIZED if q is None else int(q.bitwidth) for q in factors]
        rows.append({"name": op.dotted_name, "op_type": op.type, "bits": bits, "kinds": kinds})
    return rows


def priced(layers: list[Layer], macs: dict[str, int]) -> dict[str, Any]:
    """Return the bit operations, None where a layer has no MACs; every layer gets its own.

    A layer that AIMET made of several nodes has the name of their common scope.
    """
    for row in layers:
        named = [row["name"]] if row["name"] in macs else [n for n in macs if n.rpartition("/")[0] == row["name"]]
        row["macs"] = macs[named[0]] if len(named) == 1 else None
    missing = [row["name"] for row in layers if row["macs"] is None]
    total = sum(row["macs"] or 0 for row in layers)
    bits = None if missing else sum(row["macs"] * row["bits"][0] * row["bits"][1] for row in layers)
    return {"bit_operations": bits, "macs": total, "macs_given": sum(macs.values()), "layers_without_macs": missing}


if __name__ == "__main__":
    np.random.seed(0)  # it makes its dummy inputs with the global generator
    main()
