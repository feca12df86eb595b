"""What must hold for every graph, precision and target: each function returns sentences, none where all is well."""

import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from graph_strategy import Drawn

from fewbits.errors import FewbitsError, ModelError
from fewbits.graph.load import load_model
from fewbits.graph.passes import constants
from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes
from fewbits.graph.topology import constant, is_float32, op_rule
from fewbits.quantization.adopt import adopt
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.profile import Profile
from fewbits.quantization.strip import strip_qdq
from fewbits.runtime.session import Arrays, Runner, RunOptions, SessionPolicy, open_session
from fewbits.spec.dtypes import PerBlock
from fewbits.spec.encodings import Encoding
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Grid, Role
from fewbits.spec.precision import FP16
from fewbits.workflow.calibrate import Calibration, calibrate
from fewbits.workflow.parity import measure
from fewbits.workflow.quantized import Quantized, quantize_calibrated

ONE_THREAD = RunOptions(threads=1)
LEAST_DB, LEAST_HALF_DB = 90.0, 50.0
"""Float32 sums in another order agree to about 120 dB; 30 dB are for what a graph loses by cancellation.

Where a graph has a float16 part, a difference there is one unit of 2^-11 (66 dB), whatever it came from.
"""
NUDGE = 1e-6
NUDGED = 30.0
"""A graph that answers a nudge of its inputs by 1e-6 with a difference d may differ by 30 d after preparation."""


@dataclass
class Tally:
    """What a run of the fuzzer came across."""

    graphs: int = 0
    discards: int = 0
    nodes: Counter = field(default_factory=Counter)
    precisions: Counter = field(default_factory=Counter)
    breaches: Counter = field(default_factory=Counter)
    floats: Counter = field(default_factory=Counter)
    blocks: Counter = field(default_factory=Counter)
    unsimulated: int = 0


def reference(case: Drawn) -> Runner | None:
    """Return the float model in onnxruntime, without node names, which onnxruntime wants to be unique."""
    proto = copy.deepcopy(case.model)
    for node in proto.graph.node:
        node.name = ""
    try:
        return open_session(proto.SerializeToString(), policy=SessionPolicy.PLAIN, options=ONE_THREAD)
    except ModelError:
        return None


def breaches(case: Drawn, tally: Tally) -> list[str]:
    """Return every invariant that the case breaks, each as "invariant: what"."""
    runner = reference(case)
    wanted = None if runner is None else _answer(runner, case.feeds)
    if runner is None or wanted is None:
        tally.discards += 1
        return []
    tally.graphs += 1
    tally.nodes.update(node.op_type for node in case.model.graph.node)
    tally.precisions[f"{case.precision} + {case.lifted or 'nothing'}"] += 1
    calibration = calibrated(case)
    made = quantized(case, calibration)
    tally.floats.update(f"{n.op}: {_unnamed(n.reason)}" for n in made.plan.nodes.values() if n.reason)
    tally.blocks.update(_blocks(calibration, made))
    found = [
        *_prepared(case, runner, wanted, calibration),
        *_switched_off(case, calibration, made, tally),
        *_sound(case, wanted, made),
        *_planned(calibration, made),
        *_tied(made),
        *_imported(case, calibration, made),
        *_again(case, calibration, made),
    ]
    tally.breaches.update(text.split(":")[0] for text in found)
    return found


def _blocks(calibration: Calibration, made: Quantized) -> Iterator[str]:
    """Yield the operator of every weight with scales per block, and whether the last block is a whole one."""
    stored = calibration.model.graph.initializers
    for (node, _), key in made.plan.inputs.items():
        grid = made.plan.grids[key]
        if isinstance(grid.spec.granularity, PerBlock):
            rest = stored[grid.tensor].const_value.shape[grid.spec.granularity.axis] % grid.spec.granularity.size
            yield f"{made.plan.nodes[node].op}, {'a shorter last block' if rest else 'whole blocks'}"


def _unnamed(reason: str) -> str:
    return re.sub(r"'.*?'|\d+(\.\d+)?(e[+-]\d+)?", "_", reason, flags=re.DOTALL)


def _answer(runner: Runner, feeds: Arrays) -> Arrays | None:
    try:
        answers = runner(feeds)
    except FewbitsError:
        return None
    floats = [a for a in answers.values() if a.dtype.kind == "f"]
    return answers if all(np.isfinite(a).all() for a in floats) else None


def calibrated(case: Drawn) -> Calibration:
    """Return the calibration of a case on its own feeds."""
    return calibrate(
        case.model,
        data=[case.feeds],
        target=case.target,
        run_options=ONE_THREAD,
        batch_size=case.batch,
        simplify=case.is_simplified,
    )  # constants of the graph may hold the batch, so that it is never cut


def quantized(case: Drawn, calibration: Calibration) -> Quantized:
    """Return the case in its precisions."""
    names = [str(node.name) for node in calibration.model.graph]
    lifted = dict.fromkeys(names[:: case.stride], case.lifted) if case.lifted else {}
    return quantize_calibrated(calibration, Profile.parse(case.precision, lifted), ranges=case.ranges)


def _prepared(case: Drawn, runner: Runner, wanted: Arrays, calibration: Calibration) -> Iterator[str]:
    """Preparation keeps the outputs."""
    prepared = calibration.subject.runner
    given = prepared(case.feeds)
    if list(wanted) != list(given):
        yield f"prepare: outputs {list(given)} instead of {list(wanted)}"
        return
    yield from ("prepare: " + text for text in _unlike(wanted, given))
    ratios = measure(runner, prepared, [case.feeds], "").sqnr_db
    has_half = _casts_to_half(case.model)
    least = LEAST_HALF_DB if has_half else LEAST_DB
    poor = [name for name, db in ratios.items() if db is not None and db < least]
    if not poor:
        return
    nudged = runner({k: (v * (1 + NUDGE)).astype(v.dtype) if v.dtype.kind == "f" else v for k, v in case.feeds.items()})
    for name in poor:
        apart, allowed = (np.abs(a[name].astype(np.float64) - wanted[name]).max() for a in (given, nudged))
        if apart > NUDGED * allowed + NUDGE * max(1.0, np.abs(wanted[name]).max()):
            yield f"prepare: output {name!r} is off by {apart:g} ({ratios[name]:.0f} dB)"


def _casts_to_half(model: onnx.ModelProto) -> bool:
    half = onnx.TensorProto.FLOAT16
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    is_fed = any(value.type.tensor_type.elem_type == half for value in model.graph.input)
    return is_fed or any(attribute.i == half for node in casts for attribute in node.attribute)


def _unlike(wanted: Arrays, given: Arrays) -> Iterator[str]:
    for name, array in wanted.items():
        if (array.dtype, array.shape) != (given[name].dtype, given[name].shape):
            yield f"output {name!r} is {given[name].dtype}{given[name].shape}, not {array.dtype}{array.shape}"


def _differing(left: Arrays, right: Arrays) -> list[str]:
    return [name for name in left if left[name].tobytes() != right[name].tobytes()]


def _switched_off(case: Drawn, calibration: Calibration, made: Quantized, tally: Tally) -> Iterator[str]:
    """With every quantizer off, and with a profile of fp32, what is left is the float graph, bit for bit."""
    from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
    from fewbits.runtime.torch_quantize import QuantizedGraph

    plain = quantize_calibrated(calibration, "fp32", ranges="minmax")
    if plain.to_bytes() != to_bytes(calibration.model):
        yield "fp32: the bytes of the float model change"
    if any(node.precision == FP16 for node in made.plan.nodes.values()):
        return  # float16 nodes round what they read and write; they are no quantizers
    try:
        graph = TorchGraph(calibration.model).eval()
    except ModelError:  # no such operator in the executor
        tally.unsimulated += 1
        return
    feeds = feeds_to_torch(case.feeds)
    sim = QuantizedGraph(graph, made.plan, made.encodings, made.encoded.biases).eval()
    sim.switch(False)
    for name, value in graph(feeds).items():
        if value.detach().numpy().tobytes() != sim(feeds)[name].detach().numpy().tobytes():
            yield f"off: output {name!r} of the sim with all quantizers off is not that of the float graph"


def _sound(case: Drawn, wanted: Arrays, made: Quantized) -> Iterator[str]:
    """The file passes the checker, loads, runs, and gives what the float model gives in type, shape and finiteness."""
    data = made.to_bytes()
    try:
        onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
    except Exception as error:
        yield f"checker: {str(error).strip().splitlines()[0]}"
    for policy in SessionPolicy:
        try:
            given = open_session(data, policy=policy, options=ONE_THREAD)(case.feeds)
        except FewbitsError as error:
            yield f"run: under {policy.value}: {error}"
            continue
        if list(given) != list(wanted):
            yield f"run: outputs {list(given)} instead of {list(wanted)}"
            continue
        yield from (f"run: under {policy.value} {text}" for text in _unlike(wanted, given))
        broken = [n for n, a in given.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
        yield from (f"run: under {policy.value} output {name!r} is not finite" for name in broken)


def _planned(calibration: Calibration, made: Quantized) -> Iterator[str]:
    """Every float tensor has a grid or a reason, every grid an encoding, every float node a reason."""
    graph, plan = calibration.model.graph, made.plan
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    floats = {str(v.name) for v in values if is_float32(v) and v.name}
    gridded = {grid.tensor for grid in plan.grids.values()}
    for name in floats - gridded - set(plan.reasons):
        yield f"plan: {name!r} has neither a grid nor a reason"
    for name in gridded & set(plan.reasons):
        yield f"plan: {name!r} has a grid and a reason for none"
    for name in gridded - floats:
        yield f"plan: {name!r} has a grid and is no float tensor of the graph"
    if set(plan.grids) != set(made.encodings):
        yield f"plan: grids and encodings differ in {sorted(set(plan.grids) ^ set(made.encodings))}"
    for key in (*plan.inputs.values(), *plan.outputs.values()):
        if key not in plan.grids:
            yield f"plan: {key!r} is read or written and is no grid"
    for name, node in plan.nodes.items():
        if str(node.precision) == "fp32" and not node.reason:
            yield f"plan: {node.op} {name!r} is float without a reason"
    if [str(node.name) for node in graph] != list(plan.nodes):
        yield "plan: the nodes of the plan are not those of the graph"


def _tied(made: Quantized) -> Iterator[str]:
    """What the plan ties has one grid; so have the ends of an operator that passes values through, in the file."""
    plan = made.plan
    for key, grid in plan.grids.items():
        source = plan.source(key)
        mine, other = made.encodings[key], made.encodings[source]
        if (mine.scale.tobytes(), mine.zero_point.tobytes()) != (other.scale.tobytes(), other.zero_point.tobytes()):
            yield f"tied: {key!r} shares {source!r} and has another encoding"
        if mine.spec != grid.spec:
            yield f"tied: the encoding of {key!r} has another spec than the plan"
    stored = Counter((g.tensor, g.spec, g.headroom) for g in plan.grids.values() if g.role is Role.WEIGHT)
    yield from (f"tied: the weight {case[0]!r} is stored {n} times on one grid" for case, n in stored.items() if n > 1)
    for node in made.model.graph:
        rule, plan_node = op_rule(node), plan.nodes.get(str(node.name))
        if rule is None or rule.kind is not Kind.PASS or plan_node is None or plan_node.precision.is_float:
            continue
        behind = {grid for value in node.outputs for grid in _grids_behind(value)}
        if behind - {_grid_before(node.inputs[0])}:
            yield f"tied: {node.op_type} {node.name!r} passes values through onto another grid"


def _grid_before(value: ir.Value | None) -> tuple[bytes, bytes] | None:
    node = value.producer() if value is not None else None
    return None if node is None or node.op_type != "DequantizeLinear" else _parameters(node)


def _grids_behind(value: ir.Value) -> set[tuple[bytes, bytes]]:
    return {_parameters(use.node) for use in value.uses() if use.node.op_type == "QuantizeLinear"}


def _parameters(node: ir.Node) -> tuple[bytes, bytes]:
    scale, zero = (constant(value) for value in node.inputs[1:3])
    assert scale is not None
    assert zero is not None
    return scale.numpy().tobytes(), zero.numpy().tobytes()


def _imported(case: Drawn, calibration: Calibration, made: Quantized) -> Iterator[str]:
    """The file, read again, has the same grids; a file made of them gives the same bits."""
    if not made.plan.grids and not any(node.precision == FP16 for node in made.plan.nodes.values()):
        return  # a float model
    data = made.to_bytes()
    model = load_model(data)
    constants.run(model)
    infer_shapes(model)
    stripped = strip_qdq(model, "the file")
    infer_shapes(stripped.model)
    adopted = adopt(stripped.model, stripped.given, case.target, is_complete=True)
    # a copy, since what the body of a removed If read still counts as read in the graph that it was removed from
    values = (v for node in calibration.model.clone().graph for v in node.outputs)
    dead = {v.name for v in values if not list(v.uses()) and not v.is_graph_output()}  # no file has their grids
    kept = {k: grid for k, grid in made.plan.grids.items() if grid.tensor not in dead}
    left = Counter(_facts(grid, made.encodings[k]) for k, grid in kept.items())
    right = Counter(_facts(adopted.plan.grids[k], e) for k, e in adopted.encoded.encodings.items())
    lost, new = list((left - right).elements()), list((right - left).elements())
    if lost or new:
        yield f"import: grids {lost[:2]} are lost and {new[:2]} new"
    again = to_bytes(insert_qdq(stripped.model, adopted.plan, adopted.encoded))
    first, second = (open_session(d, policy=SessionPolicy.EXACT, options=ONE_THREAD) for d in (data, again))
    one, two = first(case.feeds), second(case.feeds)
    yield from (f"import: output {name!r} changes" for name in _differing(one, two))


def _facts(grid: Grid, encoding: Encoding) -> tuple[str, ...]:
    """Return what a file says of a grid; what is stored twice, since two readers need it differently, has two names."""
    tensor = grid.tensor if grid.role is Role.ACTIVATION else ""
    return tensor, grid.spec.dtype.value, str(encoding.scale.tolist()), str(encoding.zero_point.tolist())


def _again(case: Drawn, calibration: Calibration, made: Quantized) -> Iterator[str]:
    """The same inputs give the same bytes."""
    if case.is_rerun:
        calibration = calibrated(case)
    if quantized(case, calibration).to_bytes() != made.to_bytes():
        yield "again: the second time the bytes are others"
