"""An intake that never crashes: every node model of the ONNX project's backend tests.

Each ends as a model that onnxruntime runs (its nodes quantized, or left in float for a stated reason) or as one
sentence. The same models with stored weights: `-m slow`.
"""

import pytest
from backend_cases import (
    FLOAT,
    PRECISIONS,
    QUANTIZED,
    REFUSED,
    Outcome,
    all_cases,
    feeds_of,
    take_in,
    with_weights,
)

CHUNKS = 24
LEAST_DB = {"w8a8": 10.0, "fp16": 40.0}  # of one operator on its own samples
POOR = {
    # 8 bits have no two codes for numbers that differ by less than 1/255 of the range
    "test_softmax_large_number": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number": "its rows are 0 to 3 and 10000 to 10003",
    "test_softmax_large_number_expanded": "its rows are 0 to 3 and 10000 to 10003",
    "test_softmax_large_number_expanded_ver18": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number_expanded": "its rows are 0 to 3 and 10000 to 10003",
    "test_logsoftmax_large_number_expanded_ver18": "its rows are 0 to 3 and 10000 to 10003",
    "test_thresholdedrelu_example": "an input lies on the threshold, where the function jumps",
}
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
        is_known = outcome.precision == "w8a8" and outcome.case in POOR
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


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_models_with_stored_weights_run_or_are_refused_in_a_sentence(tmp_path, chunk):
    """All inputs but the first are initializers, as the parameters of a trained network are."""
    made = [(case.name, *with_weights(case)) for case in all_cases()[chunk::CHUNKS]]
    outcomes = [o for name, model, feeds in made for o in take_in(name, model, feeds, tmp_path / name / "out")]
    assert [flaw for outcome in outcomes for flaw in flaws(outcome)] == []
