import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import graph, normal, proto, run
from onnx import helper

from fewbits.errors import ModelError
from fewbits.graph.load import check_finite, load_model

CONV = """g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }"""


@pytest.fixture
def external(tmp_path):
    """A model whose weight lies in weights.bin beside it."""
    model = proto(CONV, w=normal(4, 3, 3, 3))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_load_model_takes_every_source(tmp_path):
    model = proto(CONV, w=normal(4, 3, 3, 3))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    feeds = {"x": normal(1, 3, 8, 8, seed=1)}
    expected = run(model, feeds)["y"]
    for source in (path, str(path), path.read_bytes(), model, load_model(model)):
        np.testing.assert_array_equal(run(load_model(source), feeds)["y"], expected)


def test_load_model_copies_a_graph():
    first = graph(CONV, w=normal(4, 3, 3, 3))
    second = load_model(first)
    second.graph[0].name = "other"
    assert first.graph[0].name == "Conv_0"


def test_load_model_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx' does not exist: check the path"):
        load_model(tmp_path / "none.onnx")


def test_load_model_folder(tmp_path):
    with pytest.raises(ModelError, match="is a folder, not a model file"):
        load_model(tmp_path)


def test_load_model_not_onnx(tmp_path):
    path = tmp_path / "photo.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(ModelError, match=r"photo\.onnx' is not an ONNX file, or it is cut short"):
        load_model(path)


def test_load_model_empty_file(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(ModelError, match="is empty: it was cut short"):
        load_model(path)


def test_load_model_truncated_file_at_any_length():
    data = proto(CONV, w=normal(4, 3, 3, 3)).SerializeToString()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(ModelError, match=r"cut short|not a valid ONNX graph"):
            load_model(data[:length])


def test_load_model_undefined_tensor():
    model = proto(CONV)
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelError, match=r"'Conv_0' \(Conv\) reads 'nowhere', which nothing produces"):
        load_model(model)


def test_load_model_undefined_output():
    model = proto(CONV, w=normal(4, 3, 3, 3))
    model.graph.output[0].name = "z"
    with pytest.raises(ModelError, match="nothing produces its output 'z'"):
        load_model(model)


def test_load_model_cycle():
    model = proto("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }")
    with pytest.raises(ModelError, match=r"not a valid ONNX graph: .*cycle"):
        load_model(model)


def test_load_model_sorts_nodes():
    model = proto("g (float[2] x) => (float[2] y) { y = Relu(a) a = Neg(x) }")
    assert [node.op_type for node in load_model(model).graph] == ["Neg", "Relu"]


def test_load_model_external_data_stay_on_disk(external):
    model = load_model(external)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None
    np.testing.assert_array_equal(tensor.numpy(), normal(4, 3, 3, 3))


def test_load_model_relative_path_finds_external_data(external, monkeypatch):
    monkeypatch.chdir(external.parent)
    np.testing.assert_array_equal(
        load_model("model.onnx").graph.initializers["w"].const_value.numpy(), normal(4, 3, 3, 3)
    )


def test_load_model_missing_external_data(external):
    (external.parent / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights of 'w' in 'weights\.bin', which is not beside it"):
        load_model(external)


def test_load_model_short_external_data(external):
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"weights\.bin' has 424 bytes, but 'w' ends at byte 432"):
        load_model(external)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
def test_load_model_refuses_external_data_elsewhere(external, location):
    model = onnx.load(external, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder, which is refused"):
        load_model(external)


def test_load_model_refuses_symlink_out_of_the_folder(external, tmp_path_factory):
    data = external.parent / "weights.bin"
    moved = tmp_path_factory.mktemp("elsewhere") / "weights.bin"
    data.rename(moved)
    data.symlink_to(moved)
    with pytest.raises(ModelError, match="outside its own folder, which is refused"):
        load_model(external)


def test_load_model_refuses_hard_linked_data(external):
    (external.parent / "copy.bin").hardlink_to(external.parent / "weights.bin")
    with pytest.raises(ModelError, match="several hard links"):
        load_model(external)


def test_load_model_bytes_cannot_have_external_data(external):
    with pytest.raises(ModelError, match="load it from its path, not from memory"):
        load_model(external.read_bytes())


def test_load_model_keeps_the_shape_of_an_input_that_is_an_output():
    model = load_model(proto("g (float[4] x, float[N,2] z) => (float[a] x, float[N,2] y) { y = Neg(z) }"))
    assert [str(value.shape) for value in model.graph.inputs] == ["[4]", "[N,2]"]
    assert model.graph.outputs[0] is model.graph.inputs[0]


def test_load_model_drops_initializers_from_inputs():
    model = proto(CONV, w=normal(4, 3, 3, 3))
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3]))
    assert [value.name for value in load_model(model).graph.inputs] == ["x"]


def test_load_model_names_nodes():
    text = "g (float[2] x) => (float[2] y) { [same] a = Neg(x) [same] b = Relu(a) c = Abs(b) [Abs_2] y = Sqrt(c) }"
    assert [node.name for node in graph(text).graph] == ["same", "same_1", "Abs_2_1", "Abs_2"]


def test_load_model_names_are_stable():
    model = proto("g (float[2] x) => (float[2] y) { a = Neg(x) b = Relu(a) y = Abs(b) }")
    names = [node.name for node in load_model(model).graph]
    assert names == [node.name for node in load_model(load_model(model)).graph] == ["Neg_0", "Relu_1", "Abs_2"]


def test_load_model_tells_values_of_branches_apart():
    text = """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] z) { z = Neg(x) },
                    else_branch = e () => (float[2] z) { z = Abs(x) }>
    }"""
    model = graph(text)
    names = [value.name for inner in model.graphs() for node in inner for value in node.outputs]
    assert sorted(names) == ["y", "z", "z_1"]
    x = np.array([-1, 2], np.float32)
    np.testing.assert_array_equal(run(model, {"c": np.array(False), "x": x})["y"], [1, 2])
    np.testing.assert_array_equal(run(model, {"c": np.array(True), "x": x})["y"], [1, -2])


def test_load_model_keeps_left_out_outputs_left_out():
    model = proto("g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) }")
    model.graph.node[0].output.append("")
    assert [value.name or "" for value in load_model(model).graph[0].outputs] in (["y"], ["y", ""])


def test_load_model_inlines_functions():
    text = """<ir_version: 10, opset_import: ["": 21, "local": 1]>
        g (float[2] x) => (float[2] y) { a = local.twice(x) y = local.twice(a) }
        <domain: "local", opset_import: ["": 21]> twice (v) => (w) { w = Add(v, v) }"""
    model = load_model(onnx.parser.parse_model(text))
    assert [node.op_type for node in model.graph] == ["Add", "Add"]
    assert not model.functions
    np.testing.assert_array_equal(run(model, {"x": np.array([1, 2], np.float32)})["y"], [4, 8])


def test_load_model_refuses_recursive_functions():
    text = """<ir_version: 10, opset_import: ["": 21, "local": 1]>
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 21, "local": 1]> f (v) => (w) { w = local.f(v) }"""
    with pytest.raises(ModelError, match="not a valid ONNX graph"):
        load_model(onnx.parser.parse_model(text))


def test_load_model_unknown_domain_is_fine():
    model = graph("g (float[2] x) => (float[2] y) { y = vendor.Magic(x) }", domains='"vendor": 1')
    assert model.graph[0].domain == "vendor"


def test_check_finite_names_a_nan():
    weight = normal(4, 3, 3, 3)
    weight[0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=r"'w' \(read by 'Conv_0'\) holds NaN"):
        check_finite(graph(CONV, w=weight))


def test_check_finite_refuses_infinity_in_a_weight():
    weight = normal(4, 3, 3, 3)
    weight[0, 0, 0, 0] = np.inf
    with pytest.raises(ModelError, match=r"'w' .* holds an infinity"):
        check_finite(graph(CONV, w=weight))


def test_check_finite_allows_masks():
    mask = np.array([0, -np.inf], np.float32)
    check_finite(graph("g (float[1,2] x, float[2] mask) => (float[1,2] y) { y = Add(x, mask) }", mask=mask))
