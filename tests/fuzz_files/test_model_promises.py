"""What docs/security.md promises of ONNX files: what they claim costs nothing before it was checked."""

import time

import numpy as np
import onnx
import pytest
from borrowed import tiny_model
from onnx import TensorProto, helper

from fewbits.errors import DataError, ModelError
from fewbits.graph.bounds import MOST_WORK
from fewbits.graph.inspect import node_macs
from fewbits.graph.load import load_model
from fewbits.runtime.data.types import InputInfo


def functions(deep: int, *, is_cycle: bool = False) -> onnx.ModelProto:
    """Return a model whose functions call the next one twice."""
    model = tiny_model()
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("b", 1)]
    for level in range(deep):
        steps = (("a", "m"), ("m", "b"))
        called = [helper.make_node(f"f{(level + 1) % deep}", [x], [y], domain="b") for x, y in steps]
        is_last = level == deep - 1 and not is_cycle
        body = [helper.make_node("Relu", ["a"], ["b"])] if is_last else called
        model.functions.append(helper.make_function("b", f"f{level}", ["a"], ["b"], body, sets))
    model.opset_import.add(domain="b", version=1)
    model.graph.node.append(helper.make_node("f0", ["logits"], ["more"], domain="b"))
    return model


def test_functions_that_double_at_every_level_are_refused():
    assert len(list(load_model(functions(5)).graph)) == 9 + 16  # what networks need is written out
    assert 4**12 < MOST_WORK < 4**13
    for deep in (14, 60, 2000):
        with pytest.raises(ModelError, match="copies, which no network needs: export it without functions"):
            load_model(functions(deep))


def test_thousands_of_equal_names_are_told_apart_in_as_many_steps():
    model = tiny_model()
    for number in range(20_000):
        model.graph.node.append(helper.make_node("Relu", ["image"], [f"r{number}"], name="same"))
    begin = time.process_time()
    names_found = [node.name for node in load_model(model).graph][9:]
    assert time.process_time() - begin < 10  # below 1 s; more than half a minute where each is tried from the first
    assert names_found == ["same", *(f"same_{number}" for number in range(1, 20_000))]


def test_functions_that_call_each_other_are_refused():
    with pytest.raises(ModelError, match="its function 'f0' calls itself"):
        load_model(functions(3, is_cycle=True))


@pytest.mark.parametrize("dims", [[2**62], [-1], [8, 8, 3], []])
def test_a_constant_whose_data_do_not_fit_its_shape_is_refused(dims):
    model = tiny_model()
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    del stored.dims[:]
    stored.dims.extend(dims)
    with pytest.raises(ModelError, match="holds the constant 'w2', whose data do not fit its type and shape"):
        load_model(model)


def test_a_node_that_lacks_an_input_is_refused():
    for inputs in (["f", "", "b3"], ["f"]):
        model = tiny_model()
        del model.graph.node[-1].input[:]
        model.graph.node[-1].input.extend(inputs)
        with pytest.raises(ModelError, match=r"node 'head' \(Gemm\) lacks its input 'B'"):
            load_model(model)


@pytest.mark.parametrize("name", [b"conv1", b"w1", b"logits", b"Flatten"])
def test_a_name_that_is_no_text_is_refused(name):
    data = tiny_model().SerializeToString()
    assert data.count(name)
    with pytest.raises(ModelError, match=r"of it is no UTF-8 text|is not an ONNX file"):
        load_model(data.replace(name, name[:-1] + b"\xec"))


def test_macs_of_a_scalar_are_not_known():
    import onnx_ir as ir

    first, out = (ir.Value(name=name, shape=ir.Shape(shape)) for name, shape in (("a", ()), ("c", (2, 2))))
    node = ir.Node("", "MatMul", [first, ir.Value(name="b", shape=ir.Shape((2, 2)))], outputs=[out], name="m")
    assert node_macs(node) is None


@pytest.mark.parametrize(("name", "kind"), [("odd", "UNDEFINED"), ("group", "STRING"), ("strides", "INT")])
def test_an_attribute_of_another_type_is_refused(name, kind):
    model = tiny_model()
    model.graph.node[0].attribute.add(name=name, type=onnx.AttributeProto.AttributeType.Value(kind))
    with pytest.raises(ModelError, match=f"the attribute '{name}' of node 'conv1' has the type {kind}"):
        load_model(model)


@pytest.mark.parametrize(
    ("location", "offset"), [("w\0.data", "0"), ("x" * 300, "0"), ("w.data", "-8"), ("w.data", str(2**62))]
)
def test_external_data_that_cannot_be_are_refused(tmp_path, location, offset):
    model = tiny_model()
    stored = model.graph.initializer[0]
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset)):
        stored.external_data.add(key=key, value=value)
    (tmp_path / "w.data").write_bytes(bytes(4096))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"names no file|is not a valid ONNX graph|begins at byte -8|is cut short"):
        load_model(tmp_path / "m.onnx")


EXTERNAL = [
    (TensorProto.UNDEFINED, [2]),
    (TensorProto.STRING, [2]),
    (TensorProto.FLOAT, [-2]),
    (TensorProto.FLOAT, [2**62] * 40),
]


@pytest.mark.parametrize(("kind", "dims"), EXTERNAL)
def test_external_data_without_a_type_or_a_size_are_refused(tmp_path, kind, dims):
    model = tiny_model()
    stored = model.graph.initializer[0]
    stored.CopyFrom(TensorProto(name=stored.name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL))
    stored.external_data.add(key="location", value="w.data")
    (tmp_path / "w.data").write_bytes(bytes(4096))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"which cannot be|is not a valid ONNX graph|is cut short"):
        load_model(tmp_path / "m.onnx")


def test_no_feed_is_made_up_for_an_input_of_terabytes():
    from fewbits.workflow.parity import random_feeds

    huge = InputInfo("image", np.dtype(np.float32), ("N", 2**40, 8))
    with pytest.raises(DataError, match=r"takes 3\.52e\+04 GB, too much to make one up"):
        next(random_feeds([huge], 1))
