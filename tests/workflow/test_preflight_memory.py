"""Memory of the ranking of groups: what is told beforehand, and that it is given back."""

import weakref

import onnx_ir as ir
import pytest

from fewbits.analysis import sensitivity
from fewbits.improvement.layer_case import LEARNED_ELEMENTS
from fewbits.quantization.profile import Profile
from fewbits.runtime import heap
from fewbits.runtime.memory import MB, peak_mb, resident_mb
from fewbits.runtime.session import RunOptions
from fewbits.workflow import preflight_memory as memory
from fewbits.workflow.calibrate import calibrate_subject
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sensitivity import one_pass
from fewbits.workflow.stages import Stages
from fewbits.workflow.subject import open_subject


@pytest.fixture
def subject(tiny):
    return open_subject(tiny.model, data=tiny.calib, run_options=RunOptions(threads=1))


def test_a_shared_tensor_has_a_gradient_for_each_of_its_readers_too(subject):
    graph = subject.model.graph
    sizes = memory.tensor_bytes(graph, {})
    names = [str(value.name) for node in graph for value in node.inputs if value is not None]
    shared = {name: names.count(name) for name in sizes if names.count(name) > 1}
    assert shared
    assert memory.gradient_bytes(graph, sizes) == sum(sizes.values()) + sum(
        n * sizes[name] for name, n in shared.items()
    )


def test_a_text_has_the_size_of_what_it_is_made_from(subject):
    graph = subject.model.graph
    last = list(graph)[-1].outputs[0]
    last.type = ir.TensorType(ir.DataType.STRING)
    sizes = memory.tensor_bytes(graph, {})
    assert sizes[last.name] == max(sizes[value.name] for value in list(graph)[-1].inputs if value.name in sizes)


def test_litemp_mb_counts_gradients_of_as_many_probes_as_are_held(subject):
    sizes = memory.tensor_bytes(subject.model.graph, {})
    few, more = (memory.litemp_mb(subject.model, sizes, 1, probes) for probes in (1, 4))
    one = memory.gradient_bytes(subject.model.graph, sizes)
    assert more - few == pytest.approx(3 * one / MB)
    large = {name: 1e6 * size for name, size in sizes.items()}
    held, one = (memory.litemp_mb(subject.model, large, 1, probes) for probes in (16, 1))
    assert held == one  # those of one probe are more than what is held of several
    middle = {name: sensitivity.MOST_BYTES / 10 / sum(sizes.values()) * size for name, size in sizes.items()}
    assert memory.litemp_mb(subject.model, middle, 1, 64) == memory.litemp_mb(subject.model, middle, 1, 32)


def improving(subject, samples, batch=8, positions=1.0):
    """Return what is told of improving a network whose tensors are `positions` times as large."""
    sizes = {name: positions * size for name, size in memory.tensor_bytes(subject.model.graph, {}).items()}
    return memory.Improving(subject.model, sizes, samples, batch)


def test_rows_of_a_layer_are_told_as_far_as_there_are_so_many(subject):
    few, more = (improving(subject, samples, samples).rounding_mb for samples in (8, 80))
    read = 72 * memory._READ * 8 * 64 * 4 / MB
    gathered = memory._COPIES * 4 * 64 * 72 * 72 / MB  # 72 samples more, of 64 positions with 72 inputs
    assert more - few == pytest.approx(read + gathered)
    many, most = (improving(subject, samples, 8, 1e4).learning_mb for samples in (10**5, 10**7))
    assert most <= many  # enough rows are there, and of each batch fewer are gathered


def test_adaround_is_told_with_the_rows_that_it_holds(subject):
    told = improving(subject, 10**6, positions=1e3)
    held = told.learning_mb - told.rounding_mb
    assert 2 * 4 * LEARNED_ELEMENTS / MB < held < 5 * 4 * LEARNED_ELEMENTS / MB


def test_adaround_by_block_is_told_with_the_tensors_of_its_largest_block(subject):
    one, eight = (improving(subject, 400, batch, positions=100) for batch in (1, 8))
    by_block = [told.block_learning_mb - told.rounding_mb for told in (one, eight)]
    tensors = sum(one.sizes.values()) / MB
    assert 7 * 5 * max(one.sizes.values()) / MB < by_block[1] - by_block[0] <= 7 * 5 * tensors


def test_balancing_is_told_with_all_tensors_of_a_batch(subject):
    one, eight = (improving(subject, 400, batch) for batch in (1, 8))
    tensors = sum(one.sizes.values()) / MB
    assert eight.balancing_mb - one.balancing_mb > 7 * 2 * tensors


def test_resident_memory_is_at_most_the_peak():
    now = resident_mb()
    if now is None:
        pytest.skip("the system does not tell resident memory")
    assert 10 < now <= peak_mb() * 1.01


def test_gradients_of_one_share_are_gone_before_the_next_is_computed(subject, monkeypatch):
    torch = pytest.importorskip("torch")
    derive, before, alive, trimmed = torch.autograd.grad, [], [], []

    def watched(*given, **how):
        alive.append(sum(one() is not None for one in before))
        made = derive(*given, **how)
        before[:] = [weakref.ref(gradient) for gradient in made if gradient is not None]
        return made

    monkeypatch.setattr(torch.autograd, "grad", watched)
    monkeypatch.setattr(sensitivity, "MOST_BYTES", 1)
    monkeypatch.setattr(heap, "_malloc_trim", lambda: trimmed.append)
    calibration = calibrate_subject(subject, samples=8, stages=Stages())
    made = [quantize_calibrated(calibration, Profile.parse("w8a8"), ranges="minmax")]
    one_pass(calibration, made, samples=8, probes=4)
    assert len(alive) >= 4
    assert not any(alive)
    assert len(before) > 5
    assert trimmed


def test_trim_heap_does_nothing_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    heap._malloc_trim.cache_clear()
    assert heap._malloc_trim() is None
    heap.trim_heap()
    heap._malloc_trim.cache_clear()
