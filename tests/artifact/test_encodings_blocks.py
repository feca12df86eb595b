"""Block-wise grids in AIMET's layouts: orders of scales, and nothing lost on the way."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from fewbits.artifact.encodings_blocks import channel_of, gather, spread
from fewbits.artifact.encodings_json import encodings_document
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.encodings_versions import as_version
from fewbits.errors import SpecError
from fewbits.graph.load import load_model
from fewbits.spec.dtypes import DType, PerBlock, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[2, 8] x, float[1, 8, 4, 4] i) => (float[2, 6] y, float[] c)
{ y = MatMul (x, m)  c = Conv (i, k) }"""


@pytest.fixture
def graph():
    import onnx

    proto = onnx.parser.parse_model(TEXT)
    for name, shape in {"m": (8, 6), "k": (6, 8, 3, 3)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return load_model(proto).graph


def block_grid(shape, axis, size, seed=0):
    """Scales that depend on channel and block only, in ONNX's blocked shape."""
    granularity, rng = PerBlock(axis, size), np.random.default_rng(seed)
    channel = channel_of(axis, shape)
    listed = rng.uniform(0.1, 1, shape[channel] * (shape[axis] // size)).astype(np.float32)
    scale = spread(listed, granularity, shape, channel)
    return Encoding(QuantSpec(DType.INT4, 4, True, granularity), scale, np.zeros(scale.shape, np.int64)), listed


def document(graph: ir.Graph, encodings):
    grids = {name: Grid(name, encoding.spec, Role.WEIGHT) for name, encoding in encodings.items()}
    from fewbits.spec.plan import NodePlan
    from fewbits.spec.precision import Precision

    nodes = {str(node.name): NodePlan(node.op_type, Precision(4, 8)) for node in graph}
    return encodings_document(graph, Plan("t", nodes, grids, {}, {}, {}), encodings, producer="0")


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_block_wise_grids_survive(graph, tmp_path, version):
    encodings = {"m": block_grid((8, 6), 0, 4)[0], "k": block_grid((6, 8, 3, 3), 1, 2)[0]}
    (tmp_path / "e.json").write_text(json.dumps(as_version(document(graph, encodings), version)))
    found = read_encodings(tmp_path / "e.json", graph)
    for name, encoding in encodings.items():
        assert found[name].spec == encoding.spec
        np.testing.assert_array_equal(found[name].scale, encoding.scale)


def test_lists_go_channel_by_channel_and_nests_have_the_shape_of_the_weight(graph):
    (encoding, listed), made = block_grid((8, 6), 0, 4), None
    made = document(graph, {"m": encoding})
    (entry,) = made["param_encodings"]
    assert entry["scale"][:2] == [encoding.scale[0, 0], encoding.scale[1, 0]]  # two blocks of the first channel
    np.testing.assert_array_equal(entry["scale"], listed)
    (grid,) = as_version(made, "2.0.0")["encodings"]
    np.testing.assert_array_equal(grid["y_scale"], encoding.scale)
    assert (grid["axis"], grid["block_size"]) == (0, 4)


def test_a_file_of_another_tool_need_not_say_axes(graph, tmp_path):
    """1.0.0 says neither the axis of channels nor that of blocks; 0.6.1 not even that there are blocks."""
    encoding, listed = block_grid((8, 6), 0, 4)
    entry = {
        "name": "m", "bw": 4, "dtype": "INT", "enc_type": "PER_BLOCK", "is_sym": True, "block_size": 4,
        "offset": [-8.0] * 12, "scale": listed.tolist(),
    }  # fmt: skip
    (tmp_path / "e.json").write_text(
        json.dumps({"version": "1.0.0", "activation_encodings": [], "param_encodings": [entry]})
    )
    np.testing.assert_array_equal(read_encodings(tmp_path / "e.json", graph)["m"].scale, encoding.scale)
    grids = [
        {"bitwidth": 4, "dtype": "int", "is_symmetric": "True", "min": 0, "max": 0, "offset": -8, "scale": float(s)}
        for s in encoding.scale.ravel()
    ]
    (tmp_path / "old.json").write_text(
        json.dumps({"version": "0.6.1", "activation_encodings": {}, "param_encodings": {"m": grids}})
    )
    old = read_encodings(tmp_path / "old.json", graph)["m"]
    assert old.spec.granularity == PerBlock(0, 4)
    np.testing.assert_array_equal(old.scale, encoding.scale)


def test_a_scale_per_position_of_a_kernel_has_no_place(graph):
    encoding, _ = block_grid((6, 8, 3, 3), 1, 2)
    scale = encoding.scale.copy()
    scale[0, 0, 1, 1] *= 2
    uneven = Encoding(encoding.spec, scale, encoding.zero_point)
    with pytest.raises(ValueError, match="differ between positions of the kernel"):
        gather(scale, 1, 0)
    with pytest.raises(SpecError, match=r"block-wise grid of 'k' cannot be written .* differ between positions"):
        document(graph, {"k": uneven})


def test_too_few_scales_are_refused(graph, tmp_path):
    entry = {"name": "m", "bw": 4, "dtype": "INT", "enc_type": "PER_BLOCK", "is_sym": True, "block_size": 4,
             "offset": [-8.0] * 5, "scale": [0.1] * 5}  # fmt: skip
    (tmp_path / "e.json").write_text(
        json.dumps({"version": "1.0.0", "activation_encodings": [], "param_encodings": [entry]})
    )
    with pytest.raises(SpecError, match="5 scales are not 6 channels of 2 blocks"):
        read_encodings(tmp_path / "e.json", graph)
