"""An intake that never crashes: every model of the ONNX project's backend tests.

Each ends as a model that onnxruntime runs (its nodes quantized, or left in float for a stated reason) or as one
sentence. By default every node model in w8a8 and fp16; all precisions, stored weights, whole networks: `-m slow`.
"""

import numpy as np
import pytest
from backend_cases import (
    ALL_PRECISIONS,
    FILE_SUITES,
    FLOAT,
    PRECISIONS,
    QUANTIZED,
    REFUSED,
    Outcome,
    all_cases,
    feeds_of,
    file_cases,
    take_in,
    with_weights,
)
from onnx import TensorProto, numpy_helper

from fewbits.errors import FewbitsError
from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.runtime.data import open_data
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.source import prepare_for

ONE_THREAD = RunOptions(threads=1)
CHUNKS = 24
LEAST_DB = {"w8a8": 10.0, "w8a16": 10.0, "w4a8": 5.0, "fp16": 40.0}  # of one operator on its own samples
POOR = {
    # 8 bits have no two codes for numbers that differ by less than 1/255 of the range
    "test_softmax_large_number": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number": "its rows are 0 to 3 and 10000 to 10003",
    "test_softmax_large_number_expanded": "its rows are 0 to 3 and 10000 to 10003",
    "test_softmax_large_number_expanded_ver18": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number_expanded": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number_expanded_ver18": "its rows are 0 to 3 and 10000 to 10003",
    **dict.fromkeys(
        (
            f"test_reduce_log_sum_exp_{form}_example_expanded"
            for form in ("do_not_keepdims", "keepdims", "negative_axes_keepdims")
        ),
        "it writes exponentials of 1 to 60, far more than 255 steps tell apart",
    ),
    "test_attention_4d_softcap_neginf_mask_poison_expanded": "rows of a weight that the mask hides are 1000, others 1",
    "test_thresholdedrelu_example": "an input lies on the threshold, where the function jumps",
}
POOR_IN_4_BITS = {
    "test_matmul_1d_3d": "a step of its eight weights is 0.32, and its sums of four products cancel to 0.25"
}
LIGHT = (
    "light_bvlc_alexnet", "light_densenet121", "light_inception_v1", "light_inception_v2", "light_resnet50",
    "light_shufflenet", "light_squeezenet", "light_vgg19", "light_zfnet512",
)  # fmt: skip
BEYOND = (
    "test_operator_add_broadcast", "test_operator_add_size1_right_broadcast", "test_operator_addconstant",
    "test_operator_add_size1_singleton_broadcast",
)  # fmt: skip
"""Their samples are doubles of up to 1e300, which float32 does not hold."""
NOT_AS_EXPECTED = (
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal", "test_maxunpool_export_with_output_shape",
    "test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners",
)  # fmt: skip
"""onnxruntime 1.32 answers otherwise than their authors, with the models as they are."""
RANDOM = ("test_training_dropout",)
"""Their nodes draw new random numbers in every run."""


def flaws(outcome: Outcome) -> list[str]:
    """Say what is wrong with one outcome."""
    found = list(outcome.breaches)
    if outcome.status != QUANTIZED and not outcome.reasons:
        found.append("no reason is given")
    if outcome.status == REFUSED:
        (sentence,) = outcome.reasons
        is_plain = sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence
        found += [] if is_plain and len(sentence) > 20 else [f"no clear sentence: {sentence}"]
    elif outcome.sqnr_db is not None and not outcome.case.startswith(RANDOM):
        least = LEAST_DB[outcome.precision] if outcome.status == QUANTIZED else 100.0
        is_known = outcome.precision != "fp16" and outcome.case in POOR
        is_known |= outcome.precision == "w4a8" and outcome.case in POOR_IN_4_BITS
        if outcome.sqnr_db < least and not is_known:
            found.append(f"{outcome.sqnr_db:.1f} dB")
    return [f"{outcome.case} {outcome.precision} ({outcome.status}): {flaw}" for flaw in found]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_models_run_or_are_refused_in_a_sentence(tmp_path, chunk):
    cases = all_cases()[chunk::CHUNKS]
    outcomes = [o for c in cases for o in take_in(c.name, c.model, feeds_of(c), tmp_path / c.name / "out")]
    assert len(outcomes) == len(PRECISIONS) * len(cases) > 120
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []
    for precision in PRECISIONS:  # each way to end is a common one
        statuses = [outcome.status for outcome in outcomes if outcome.precision == precision]
        assert statuses.count(QUANTIZED) > 0.2 * len(cases)
        assert statuses.count(FLOAT) > 0.2 * len(cases)
        assert statuses.count(REFUSED) < 0.35 * len(cases)


@pytest.mark.parametrize("suite", ["pytorch-operator", "pytorch-converted"])
def test_prepared_networks_answer_what_their_authors_expect(suite):
    """Most are of opset 6, which onnxruntime itself does not run."""
    for case in file_cases(suite):
        runner = open_session(to_bytes(prepare_for(load_model(case.model), ONE_THREAD, simplify=True).model))
        for wanted, given in zip(case.expected, runner(case.feeds).values(), strict=True):
            if case.name not in BEYOND:
                np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5, err_msg=case.name)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_prepared_node_models_answer_what_their_authors_expect(chunk):
    count = 0
    for case in all_cases()[chunk::CHUNKS]:
        found = answers(case)
        if found is None or case.name in NOT_AS_EXPECTED or case.name.startswith(RANDOM):
            continue
        count += 1
        for wanted, given in found:
            assert given.shape == wanted.shape, case.name
            if np.issubdtype(given.dtype, np.inexact):
                np.testing.assert_allclose(given, wanted.astype(given.dtype), rtol=1e-2, atol=1e-3, err_msg=case.name)
            else:
                assert np.array_equal(given, wanted), case.name
    assert count > 50


def answers(case) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return what the authors expect and what the prepared model answers, None where it is refused."""
    try:
        runner = open_session(to_bytes(prepare_for(load_model(case.model), ONE_THREAD, simplify=True).model))
        (batch,) = open_data([feeds_of(case)], inputs=runner.inputs).batches()
        given = runner(batch.feeds)
    except FewbitsError:
        return None
    wanted = [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in case.data_sets[0][1]]
    return list(zip(map(np.asarray, wanted), map(np.asarray, given.values()), strict=True))


def test_small_networks_run_or_are_refused_in_a_sentence(tmp_path):
    cases = list(file_cases("simple"))
    outcomes = [o for case in cases for o in take_in(case.name, case.model, case.feeds, tmp_path / case.name / "out")]
    assert len(outcomes) == len(PRECISIONS) * len(cases) > 40
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []


@pytest.mark.slow
@pytest.mark.parametrize("suite", FILE_SUITES)
def test_small_networks_run_or_are_refused_in_every_precision(tmp_path, suite):
    outcomes = [
        o
        for case in file_cases(suite)
        for o in take_in(case.name, case.model, case.feeds, tmp_path / case.name / "out", ALL_PRECISIONS)
    ]
    assert len(outcomes) > 80
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_whole_networks_run_in_every_precision(tmp_path, name):
    """The weights of these networks are stored as one number each, and stand in memory as what they are."""
    (case,) = [case for case in file_cases("light") if case.name == name]
    outcomes = take_in(case.name, case.model, case.feeds, tmp_path / "out", ALL_PRECISIONS)
    assert {outcome.status for outcome in outcomes} == {QUANTIZED}
    assert [flaw for outcome in outcomes for flaw in outcome.breaches] == []


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_models_run_or_are_refused_in_the_other_precisions(tmp_path, chunk):
    outcomes = [
        o
        for case in all_cases()[chunk::CHUNKS]
        for o in take_in(case.name, case.model, feeds_of(case), tmp_path / case.name / "out", ("w8a16", "w4a8"))
    ]
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_models_with_stored_weights_run_or_are_refused_in_a_sentence(tmp_path, chunk):
    """All inputs but the first are initializers, as the parameters of a trained network are."""
    made = [(case.name, *with_weights(case)) for case in all_cases()[chunk::CHUNKS]]
    outcomes = [
        o for name, model, feeds in made for o in take_in(name, model, feeds, tmp_path / name / "out", ALL_PRECISIONS)
    ]
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []
