"""Verb convert: every kind of torch model becomes the same network in ONNX, or a sentence says why not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import fewbits
from fewbits.errors import DataError, ModelError, OutputError, SpecError
from fewbits.runtime.session import open_session

torch = pytest.importorskip("torch")
import torch_models as zoo  # noqa: E402 - needs torch

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
ZOO = Path(zoo.__file__)


def images(batch=2, seed=0):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def least_db(result):
    """Return the worst SQNR of all comparisons; inf where all are equal."""
    assert all(not parity.reason for parity in result.parity), result.parity
    return min(np.inf if db is None else db for parity in result.parity for db in parity.sqnr_db.values())


@pytest.fixture(scope="module")
def cnn_file(tmp_path_factory):
    """The CNN with an open batch, exported from a batch of one."""
    module, path = zoo.Cnn(), tmp_path_factory.mktemp("cnn") / "new" / "cnn.onnx"
    module.norm.eval()  # frozen statistics in a module that trains
    result = fewbits.convert(module, images(1), output=path, dynamic_batch=True)
    return module, path, result


def test_convert_writes_what_torch_computes_for_every_batch_size(cnn_file):
    _, path, _ = cnn_file
    runner = open_session(path)
    for batch in (1, 2, 5):
        x = images(batch, seed=batch)
        with torch.no_grad():
            wanted = zoo.Cnn().eval()(x).numpy()
        np.testing.assert_allclose(runner({"image": x.numpy()})["output"], wanted, rtol=1e-4, atol=1e-5)


def test_convert_compares_on_the_example_other_values_and_other_batch_sizes(cnn_file):
    result = cnn_file[2]
    assert [parity.feeds for parity in result.parity] == [
        "the example inputs", "drawn inputs", "other sizes: image [3, 3, 8, 8]", "other sizes: image [1, 3, 8, 8]",
    ]  # fmt: skip
    assert least_db(result) > 90
    assert max(parity.max_abs["output"] for parity in result.parity) < 1e-4


def test_convert_names_inputs_outputs_dimensions_and_nodes(cnn_file):
    _, path, result = cnn_file
    assert [str(info) for info in result.inputs] == ["image: float32 [batch, 3, 8, 8]"]
    assert [str(info) for info in result.outputs] == ["output: float32 [batch, 4]"]
    model = onnx.load(path)
    assert model.opset_import[0].version == result.opset == 21
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names)) == result.nodes
    assert "head/Gemm" in names
    assert str(ZOO.parent) not in str(model)  # the exporter's notes hold the paths of the user's files


def test_convert_restores_the_mode_of_every_part(cnn_file):
    module = cnn_file[0]
    assert module.training
    assert module.drop.training
    assert not module.norm.training


def test_convert_result_does_not_follow_the_module():
    module = zoo.Cnn()
    result = fewbits.convert(module, images())
    before = {name: value.const_value.numpy().copy() for name, value in result.model.graph.initializers.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    for name, array in before.items():
        np.testing.assert_array_equal(result.model.graph.initializers[name].const_value.numpy(), array)


def test_converted_file_is_prepared_and_quantized(cnn_file, tmp_path):
    _, path, _ = cnn_file
    data = {"image": images(32, seed=9).numpy()}
    prepared = fewbits.prepare(path, data=data)
    assert all(db is None or db > 90 for db in prepared.parity.sqnr_db.values())
    made = fewbits.quantize(path, precision="w8a8", data=data, metric="sqnr", output=tmp_path / "out")
    assert made.score.value > 20
    assert (tmp_path / "out" / "model.qdq.onnx").is_file()


def test_convert_takes_inputs_by_name_in_any_order_and_names_nested_outputs():
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("right", "left")}
    result = fewbits.convert(zoo.TwoInputs(), feeds, dynamic={"left": {0: "rows"}, "right": {0: "rows"}})
    assert sorted(info.name for info in result.inputs) == ["left", "right"]
    assert [str(info) for info in result.outputs] == [
        "difference: float32 [rows, 3]", "parts_0: float32 [rows, 3]", "parts_2: float32 [rows]",
        "left_1: float32 [rows, 3]",
    ]  # fmt: skip
    runner = open_session(content(result))
    np.testing.assert_array_equal(runner(feeds)["difference"], feeds["left"] - 2 * feeds["right"])


def content(result):
    from fewbits.graph.save import to_bytes

    return to_bytes(result.model)


def test_convert_takes_a_tuple_in_order_and_names_a_tuple_of_outputs():
    left, right = torch.ones(2, 3), torch.full((2, 3), 5.0)
    result = fewbits.convert(zoo.TwoInputs(), (left, right))
    runner = open_session(content(result))
    got = runner({"left": left.numpy(), "right": right.numpy()})["difference"]
    np.testing.assert_array_equal(got, np.full((2, 3), -9.0))
    pair = fewbits.convert(zoo.Pair(), torch.randn(2, 3))
    assert [str(info) for info in pair.outputs] == ["output_0: float32 [2, 3]", "output_1: int64 [2, 3]"]
    named = fewbits.convert(zoo.Pair(), torch.randn(2, 3), output_names=["scores", "classes"])
    assert [info.name for info in named.outputs] == ["scores", "classes"]
    with pytest.raises(ModelError, match="has 2 outputs, but 1 output names are given"):
        fewbits.convert(zoo.Pair(), torch.randn(2, 3), output_names=["scores"])


def test_convert_keeps_names_apart_from_those_of_weights():
    result = fewbits.convert(zoo.OwnNames(), torch.randn(4, 2))
    assert (result.inputs[0].name, result.outputs[0].name) == ("x", "output")
    got = open_session(content(result))({"x": np.ones((4, 2), np.float32)})["output"]
    np.testing.assert_array_equal(got[0], [7, 10])


def test_convert_transformer_on_tokens_of_any_batch_and_length():
    result = fewbits.convert(
        zoo.Transformer(), input_shapes=[(1, 7)], input_dtypes="int64", dynamic_batch=True,
        dynamic={"tokens": {1: "length"}},
    )  # fmt: skip
    assert [str(info) for info in result.inputs] == ["tokens: int64 [batch, length]"]
    assert [str(info) for info in result.outputs] == ["output: float32 [batch, length, 50]"]
    assert [parity.feeds for parity in result.parity][2:] == [
        "other sizes: tokens [3, 8]", "other sizes: tokens [1, 7]"
    ]  # fmt: skip
    assert least_db(result) > 90


def test_convert_leaves_a_length_open_up_to_what_the_code_takes():
    result = fewbits.convert(zoo.Positions(), torch.randn(1, 8), dynamic_batch=True, dynamic={"x": {1: "length"}})
    assert [str(info) for info in result.inputs] == ["x: float32 [batch, length]"]
    assert [parity.feeds for parity in result.parity][2:] == ["other sizes: x [3, 7]", "other sizes: x [1, 8]"]
    assert least_db(result) > 90


def test_convert_says_where_torch_itself_fails_at_another_size():
    result = fewbits.convert(zoo.Even(), torch.randn(4, 3), dynamic_batch=True)
    assert [bool(parity.reason) for parity in result.parity] == [False, False, True, True]
    assert "run on x float32[5, 3], failed at" in result.parity[2].reason


def test_convert_data_are_compared_too(tmp_path):
    result = fewbits.convert(zoo.Cnn(), images(1), data={"image": images(6).numpy()}, samples=4)
    assert (result.parity[-1].feeds, result.parity[-1].samples) == ("the data", 4)


def test_convert_saved_program_brings_inputs_and_dimensions(tmp_path):
    module = zoo.Cnn().eval()
    program = torch.export.export(
        module, (images(4),), dynamic_shapes=({0: torch.export.Dim("n", max=4)},), strict=False
    )  # fmt: skip
    torch.export.save(program, tmp_path / "program.pt2")
    result = fewbits.convert(tmp_path / "program.pt2", output=tmp_path / "m.onnx")
    assert [str(info) for info in result.inputs] == ["image: float32 [batch, 3, 8, 8]"]
    assert [parity.feeds for parity in result.parity] == [
        "the example inputs", "drawn inputs", "other sizes: image [3, 3, 8, 8]",
        "other sizes: image [1, 3, 8, 8]",
    ]  # fmt: skip
    assert least_db(result) > 90
    with torch.no_grad():
        wanted = module(images(3)).numpy()
    got = open_session(tmp_path / "m.onnx")({"image": images(3).numpy()})["output"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(SpecError, match="keeps the dimensions"):
        fewbits.convert(program, dynamic_batch=True)
    with pytest.raises(SpecError, match="has its own weights"):
        fewbits.convert(program, weights="w.pt")
    with pytest.raises(DataError, match="takes the inputs 'image'"):
        fewbits.convert(program, {"x": images()})


def test_convert_example_with_its_trained_weights_is_the_example_file(tmp_path):
    """The digits network in torch, under the weights of the file in the repository, gives that file's outputs."""
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(DIGITS / "digits.onnx").graph.initializer}
    spec = f"{DIGITS / 'network.py'}:DigitNet"
    from fewbits.runtime.torch_load import load_torch

    state = load_torch(spec).state_dict()
    state.update({name: torch.from_numpy(array.copy()) for name, array in stored.items() if name in state})
    torch.save({"state_dict": state}, tmp_path / "digits.pt")
    result = fewbits.convert(
        spec, input_shapes=(1, 1, 8, 8), weights=tmp_path / "digits.pt", dynamic_batch=True, output_names=["logits"],
        data=DIGITS / "calib.npz", output=tmp_path / "digits.onnx",
    )  # fmt: skip
    assert least_db(result) > 90
    with np.load(DIGITS / "eval.npz") as arrays:
        feeds = {"image": arrays["image"][:64]}
    ours, theirs = open_session(tmp_path / "digits.onnx")(feeds), open_session(DIGITS / "digits.onnx")(feeds)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-3, atol=1e-3)


def test_convert_notes_outputs_that_do_not_depend_on_the_inputs(caplog):
    module = zoo.Cnn()
    with torch.no_grad():
        module.head.weight.zero_()
    fewbits.convert(module, images())
    assert "output 'output' hardly changes with the inputs" in caplog.text


REFUSED = [
    (zoo.Branch, torch.ones(2, 3), {}, ModelError, r"torch_models.py:\d+\).*data-dependent.*torch.where"),
    (zoo.FixedBatch, torch.ones(2, 12), {"dynamic_batch": True}, ModelError, r"axis 0 of 'x' as dynamic"),
    (zoo.NoOperator, torch.rand(3, 3), {}, ModelError, r"No ONNX function.*_linalg_svd.*ONNX has no such"),
    (zoo.FlatAttention, torch.ones(2, 3, 4), {}, ModelError, r"\(at .*torch_models.py:\d+\): only 4D query"),
    (zoo.Noisy, torch.ones(2, 3), {}, ModelError, r"Output 'output'.* dB from torch's on the example inputs.*60 dB"),
    (zoo.NotANumber, torch.ones(2, 3), {}, ModelError, "Output 'output' of the torch model holds NaN"),
    (zoo.Counting, torch.ones(2, 3), {}, ModelError, "writes to its own 'seen'"),
    (zoo.Number, torch.ones(2, 3), {}, ModelError, "returns a int: return tensors"),
    (zoo.Bfloat, torch.ones(2, 3), {}, ModelError, "'weight' is bfloat16"),
    (zoo.Cnn, torch.ones(2, 5, 8, 8), {}, DataError, r"image float32\[2, 5, 8, 8\], failed at .*torch_models.py"),
    (zoo.Cnn, None, {}, DataError, "No inputs are given"),
    (zoo.Cnn, (1, 2), {}, DataError, "do not fit forward"),
    (zoo.Cnn, {"picture": torch.ones(1)}, {}, DataError, "do not fit forward"),
    (zoo.Cnn, (3,), {}, DataError, "'image' is a int, no tensor"),
    (zoo.Cnn, torch.ones(1), {"input_shapes": (1, 3)}, SpecError, "two ways to say one thing"),
    (zoo.Cnn, torch.ones(1), {"input_dtypes": "int64"}, SpecError, "Input types are for inputs made from shapes"),
    (zoo.Cnn, None, {"input_shapes": (1, 3), "input_dtypes": "int3"}, SpecError, "cannot have the type 'int3'"),
    (zoo.Cnn, None, {"input_shapes": (1, 3), "input_dtypes": {"x": "int8"}}, SpecError, "given for 'x'"),
    (zoo.Cnn, images(), {"dynamic": {"x": {0: "n"}}}, SpecError, "no input 'x' to leave open"),
    (zoo.Cnn, images(), {"dynamic": {"image": {4: "n"}}}, SpecError, "has no axis 4"),
    (zoo.Cnn, images(), {"dynamic": {"image": {0: "a b"}}}, SpecError, "cannot be called 'a b'"),
    (zoo.Cnn, images(), {"opset": 99}, ModelError, "exports opset 18 here, not 99"),
    (zoo.Cnn, images(), {"output": "/proc/none/m.onnx"}, OutputError, "Cannot write the model"),
    (lambda: zoo.Cnn, images(), {}, ModelError, "given a type, which is no nn.Module"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "example", "options", "error", "said"), REFUSED, ids=lambda v: getattr(v, "__name__", "")
)
def test_convert_refuses(make, example, options, error, said, capfd):  # noqa: PLR0917 - one case
    with pytest.raises(error, match=said) as caught:
        fewbits.convert(make(), example, **options)
    assert len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")  # the exporter's pages are kept to itself


def test_convert_writes_nothing_where_the_parity_fails_unless_it_is_accepted(tmp_path):
    path = tmp_path / "noisy.onnx"
    with pytest.raises(ModelError, match="--min-sqnr"):
        fewbits.convert(zoo.Noisy(), torch.ones(2, 3), output=path)
    assert not path.exists()
    fewbits.convert(zoo.Noisy(), torch.ones(2, 3), output=path, min_sqnr_db=0)
    assert path.is_file()


def test_convert_without_torch_names_the_extra():
    code = "import sys; sys.modules['torch'] = None; import fewbits; fewbits.convert('a:b', input_shapes=(1,))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: Converting a torch model needs torch: pip install 'fewbits[torch]'." in result.stderr
