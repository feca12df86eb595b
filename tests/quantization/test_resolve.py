import numpy as np
import pytest
from model_zoo import ZOO
from qdq_models import model, normal, quantized

from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.dtypes import DType, PerBlock, PerChannel, PerTensor
from fewbits.spec.plan import Role
from fewbits.spec.target import load_target


def plan_of(name: str, precision: str = "w8a8", nodes=None, target: str = "qnn-htp-v73", **options):
    graph = ZOO[name]()[0] if name in ZOO else name
    return resolve(graph, Profile.parse(precision, nodes), load_target(target), **options)


@pytest.mark.parametrize("name", ["conv_relu", "conv_clip", "depthwise"])
def test_fused_group_has_one_output_grid(name):
    plan = plan_of(name)
    assert "c" not in plan.grids
    assert "inside the fused group Conv 'c'" in plan.reasons["c"]
    assert plan.outputs == {"y": "y"}


@pytest.mark.parametrize("name", ["conv_leaky", "conv_prelu"])
def test_a_target_may_fuse_other_activations(name, tmp_path):
    (tmp_path / "t.toml").write_text('extends = "qnn-htp-v73"\n[fused]\nConv = ["LeakyRelu", "PRelu"]\n')
    plan = plan_of(name, target=str(tmp_path / "t.toml"))
    assert "c" not in plan.grids
    assert "inside the fused group Conv 'c'" in plan.reasons["c"]
    assert plan.outputs == {"y": "y"}


def test_what_a_target_does_not_fuse_gets_two_grids():
    assert "c" in plan_of("conv_leaky", target="ort-cpu").grids
    assert "c" in plan_of("conv_leaky").grids  # onnxruntime's QNN provider wants a grid between
    assert "c" in plan_of("conv_prelu").grids
    assert "c" in plan_of("conv_relu", target="qnn-htp-v69").grids
    assert "c" in plan_of("conv_read_twice").grids


def test_followers_that_stay_float_are_not_fused(tmp_path):
    (tmp_path / "t.toml").write_text(
        'extends = "qnn-htp-v73"\n[left_float]\nClip = "no Clip here"\n[fused]\nConv = ["Clip", "Softsign2"]\n'
    )
    plan = plan_of("conv_clip", target=str(tmp_path / "t.toml"))
    assert "c" in plan.grids
    assert plan.nodes["y"].reason == "no Clip here"
    assert "y" not in plan.grids


def test_pass_through_shares_the_grid_of_its_input():
    plan = plan_of("maxpool_flatten")
    assert plan.source("y") == plan.source("m") == "r"
    assert plan_of("resize_nearest").source("y") == "c"
    assert plan_of("resize_linear").source("y") == "y"
    assert plan_of("pad_zero").source("y") == "c"
    assert plan_of("pad_one").source("y") == "y"


def test_pass_through_runs_in_its_producers_precision():
    plan = plan_of("maxpool_flatten", nodes={"m": "w8a16", "y": "fp16"})
    assert {str(p.precision) for p in plan.nodes.values()} == {"w8a8"}


def test_concat_shares_its_grid_with_inputs_that_nothing_else_reads():
    plan = plan_of("concat_pool")
    assert {plan.source(key) for key in ("x", "c", "m", "y")} == {"y", "x"}  # x is read by the Conv too
    plan = plan_of("concat")
    assert plan.source("s") == "s"  # a fixed range
    assert plan.source("r") == "r"  # joined twice
    joined = model(
        "g (float[N, 2] x, float[N, 2] z) => (float y) { r = Relu (z) t = Flatten (r) y = Concat <axis = 1> (x, t) }"
    )
    plan = plan_of(joined)
    assert {plan.source(key) for key in ("x", "r", "t", "y")} == {"y"}
    assert plan.source("z") == "z"


def test_fixed_ranges_come_from_the_target():
    assert plan_of("sigmoid").grids["y"].fixed_range == (0.0, 1.0)
    assert plan_of("tanh_swish").grids["t"].fixed_range == (-1.0, 1.0)
    assert plan_of("sigmoid", target="qnn-htp-v69").grids["y"].fixed_range is None


@pytest.mark.parametrize(
    ("name", "weight", "granularity"),
    [
        ("conv_relu", "w", PerChannel(0)),
        ("depthwise", "w", PerChannel(0)),
        ("conv_transpose", "w", PerChannel(1)),
        ("conv_transpose_depthwise", "w", PerTensor()),
        ("gemm", "w", PerChannel(1)),
        ("gemm_trans", "w", PerChannel(0)),
        ("matmul", "w", PerChannel(1)),
        ("matmul_left", "w", PerTensor()),
        ("matmul_stacked", "w", PerChannel(2)),
        ("matmul_weight_vector", "w", PerTensor()),
    ],
)
def test_weights_are_symmetric_along_their_output_channels(name, weight, granularity):
    for target, one_scale in (("ort-cpu", DType.INT4), ("qnn-htp-v73", DType.INT8)):
        grid = plan_of(name, "w4a8", target=target).grids[weight]
        stored = one_scale if granularity == PerTensor() else DType.INT4
        assert (grid.role, grid.spec.dtype, grid.spec.granularity) == (Role.WEIGHT, stored, granularity)
        assert (grid.spec.qmin, grid.spec.qmax) == (-7, 7)


@pytest.mark.parametrize(
    ("name", "shape", "granularity"),
    [
        ("y = MatMul (x, w)", (6, 3), PerBlock(0, 4)),
        ("y = MatMul (x, w)", (4, 3), PerChannel(1)),  # one block is a channel
        ("y = Gemm (x, w)", (6, 3), PerBlock(0, 4)),
        ("y = Gemm <transB = 1> (x, w)", (3, 6), PerBlock(1, 4)),
        ("y = Conv (x, w)", (3, 6, 1, 1), PerBlock(1, 4)),
        ("y = Conv <group = 2> (x, w)", (4, 6, 1, 1), PerBlock(1, 4)),
        ("y = Conv (x, w)", (3, 6, 1, 2), PerChannel(0)),  # ONNX would have scales for each position
        ("y = ConvTranspose (x, w)", (6, 3, 1, 1), PerChannel(1)),
        ("y = MatMul (x, w)", (2, 6, 3), PerChannel(2)),  # encodings files have no place for scales of each matrix
    ],
)
def test_blocks_lie_along_the_inputs_where_there_are_more(name, shape, granularity):
    image = "float[N, 12, 4, 4] x" if "group" in name else f"float[N, 6{', 4, 4' if len(shape) == 4 else ''}] x"
    graph = model(f"g ({image}) => (float y) {{ {name} }}", w=normal(*shape))
    spec = plan_of(graph, "w4a8g4", target="ort-cpu").grids["w"].spec
    assert (spec.dtype, spec.bits, spec.granularity) == (DType.INT4, 4, granularity)


def test_a_target_may_have_blocks_without_scales_per_channel(tmp_path):
    (tmp_path / "t.toml").write_text('extends = "ort-cpu"\nper_channel = []\nper_block = ["MatMul"]\n')
    for text, granularity in (("y = MatMul (x, w)", PerBlock(0, 4)), ("y = Gemm (x, w)", PerTensor())):
        graph = model(f"g (float[N, 6] x) => (float y) {{ {text} }}", w=normal(6, 3))
        plan = plan_of(graph, "w4a8g4", target=str(tmp_path / "t.toml"))
        assert plan.grids["w"].spec.granularity == granularity


def test_a_bias_beside_blocks_is_added_in_float():
    graph = model("g (float[N, 6] x) => (float y) { [n] y = Gemm (x, w, b) }", w=normal(6, 3), b=normal(3))
    plan = plan_of(graph, "w4a8g2", target="ort-cpu")
    assert "b" not in plan.grids
    assert plan.reasons["b"] == "it is added in float: the weight of Gemm 'n' has scales per block"
    assert plan_of(graph, "w4a8g6", target="ort-cpu").grids["b"].role is Role.BIAS


def test_blocks_are_refused_where_the_target_has_none():
    with pytest.raises(SpecError, match=r"'qnn-htp-v73' has no weights with scales per block \(w4a8g4\): write w4a8"):
        plan_of("gemm", "w4a8g4")
    with pytest.raises(SpecError, match="w4a16g8"):
        plan_of("gemm", "w8a8", nodes={"h": "w4a16g8"})


def test_four_bit_weights_of_one_output_channel_live_in_eight_bits_on_htp():
    """Its compiler takes a single scale for a per-tensor grid, and has none of 4 bits."""
    text = "g (float[N, 4, 2, 2] x) => (float[N, 1, 2, 2] y) { y = Conv (x, w) }"
    for channels, stored in ((1, DType.INT8), (2, DType.INT4)):
        made = model(text.replace("[N, 1,", f"[N, {channels},"), w=normal(channels, 4, 1, 1))
        grid = plan_of(made, "w4a8").grids["w"]
        assert (grid.spec.dtype, grid.spec.bits) == (stored, 4)
        assert plan_of(made, "w4a8", target="ort-cpu").grids["w"].spec.dtype is DType.INT4


def test_gamma_of_16_bits_has_its_zero_point_in_the_middle():
    """Beside an int32 bias HTP rejects a uint16 gamma whose zero point is 0."""
    for precision, is_symmetric in (("w8a8", False), ("w8a16", True), ("w16a16", True)):
        spec = plan_of("attention", precision).grids["gamma"].spec
        assert spec.dtype.value == f"uint{precision.split('a')[1]}"
        assert spec.is_symmetric is is_symmetric
    assert plan_of("attention", "w8a16", target="qnn-htp-v69").grids["gamma"].spec.dtype is DType.UINT8


def test_targets_without_per_channel_matmul_get_one_scale():
    assert plan_of("gemm", target="qnn-htp-v68").grids["w"].spec.granularity == PerTensor()


def test_odd_widths_live_in_the_next_container():
    plan = plan_of("gemm", "w6a6")
    assert (plan.grids["w"].spec.dtype, plan.grids["w"].spec.qmax) == (DType.INT8, 31)
    assert (plan.grids["x"].spec.dtype, plan.grids["x"].spec.qmax) == (DType.UINT8, 63)
    assert plan_of("gemm", "w4a4").grids["x"].spec.dtype is DType.UINT8


def test_reader_of_another_width_converts_and_shares_the_conversion():
    plan = plan_of("conv_read_twice", nodes={"r": "w8a16", "y": "w8a16"})
    assert plan.inputs["r", 0] == plan.inputs["y", 1] == "c@uint16"
    assert plan.grids["c@uint16"].converts == "c"
    assert plan.inputs["y", 0] == "r"


def test_readers_of_one_container_share_the_grid():
    plan = plan_of("conv_read_twice", nodes={"y": "w4a4"})
    assert plan.inputs["y", 1] == "c"
    assert plan.grids["c"].spec.bits == 8


def test_input_read_at_two_widths_is_quantized_twice_not_converted():
    plan = plan_of("attention", nodes={"y": "w8a16"})
    assert plan.grids["x@uint16"].converts is None
    assert plan.grids["o@uint16"].converts == "o"


def test_tied_weight_has_one_grid_and_each_bias_its_own():
    plan = plan_of("tied_linear")
    assert plan.inputs["a", 1] == plan.inputs["y", 1] == "w"
    assert plan.grids["b"].scaled_by == ("x", "w")
    assert plan.grids["c"].scaled_by == ("r", "w")


def test_tied_weight_on_two_grids_is_kept_twice():
    plan = plan_of("tied_linear", nodes={"y": "w4a8"})
    assert plan.inputs["a", 1] == "w"
    assert plan.inputs["y", 1] == "w'"
    assert plan.grids["w'"].tensor == "w"


def test_embedding_is_unsigned_and_shared_with_what_is_gathered():
    plan = plan_of("tied_embedding")
    key = plan.inputs["e", 0]
    assert plan.grids[key].role is Role.CONSTANT
    assert plan.source("e") == key


@pytest.mark.parametrize("name", ["gemm_row_bias", "gemm_scalar_bias", "gemm_one_bias", "gemm"])
def test_bias_of_one_row_has_a_scale_per_channel(name):
    grid = plan_of(name).grids["b"]
    assert (grid.spec.dtype, grid.spec.granularity) == (DType.INT32, PerChannel(0))


def test_bias_matrix_has_a_scale_per_column():
    assert plan_of("gemm_full_bias").grids["b"].spec.granularity == PerChannel(1)


def test_bias_beside_two_activations_is_int32_too():
    grid = plan_of("gemm_two_activations").grids["b"]
    assert grid.scaled_by == ("x", "r")
    assert grid.spec.granularity == PerTensor()
    assert plan_of("conv_computed_weight").grids["b"].scaled_by == ("x", "w")


def test_settings_and_bounds_get_no_grid_and_a_reason():
    reasons = plan_of("conv_clip", target="qnn-htp-v69").reasons
    assert reasons["lo"] == reasons["hi"] == "it is a setting of Clip 'y'"
    assert plan_of("resize_linear").reasons["scales"] == "it is a setting of Resize 'y'"


def test_gamma_follows_the_activations_unless_the_target_says_not(tmp_path):
    assert plan_of("attention", "w8a16").grids["gamma"].spec.dtype is DType.UINT16
    (tmp_path / "t.toml").write_text('extends = "qnn-htp-v73"\ngamma_follows_activation = false\n')
    grid = plan_of("attention", "w8a16", target=str(tmp_path / "t.toml")).grids["gamma"]
    assert (grid.role, grid.spec.dtype) == (Role.WEIGHT, DType.INT8)


@pytest.mark.parametrize(
    ("name", "node", "reason"),
    [
        ("erf", "e", "HTP has no integer Erf"),
        ("topk_in_the_middle", "v", "its result is indices"),
        ("custom_domain_of_known_type", "h", "operator com.microsoft::Gelu is not part of ONNX"),
        ("custom_domain", "y", "the types of its tensors are not known: it follows an operator that is not part"),
        ("control_flow", "z", "bodies of control flow"),
        ("shape_arithmetic", "n", "it computes no float32 values"),
        ("fed_by_shapes", "o", "not in the table of known operators"),
    ],
)
def test_nodes_left_in_float_say_why(name, node, reason):
    assert reason in plan_of(name).nodes[node].reason


def test_tensor_read_in_a_control_flow_body_keeps_its_grid():
    plan = plan_of("control_flow")
    assert plan.outputs["a"] == "a"
    assert plan_of("control_flow", "fp32").reasons["w"] == "the profile asks for fp32"


def test_celu_stays_float32_in_fp16():
    graph = model("g (float[N, 4] x) => (float y) { c = Celu (x) y = Relu (c) }")
    plan = plan_of(graph, "fp16")
    assert plan.nodes["c"].reason == "ONNX has no float16 Celu"
    assert str(plan.nodes["y"].precision) == "fp16"


def test_target_without_float16_says_so(tmp_path):
    (tmp_path / "old.toml").write_text('extends = "qnn-htp-v73"\nfp16 = false\n')
    assert plan_of("gemm", "fp16", target=str(tmp_path / "old.toml")).nodes["h"].reason == "old has no float16"


def test_refused_fp16_carries_the_figure_to_the_follower():
    plan = plan_of("gemm", "fp16", half_refused={"h": "fp16 overflows: 7e4"})
    assert plan.nodes["h"].reason == plan.nodes["y"].reason == "fp16 overflows: 7e4"
    assert plan_of("gemm", "w8a8", half_refused={"h": "no"}).nodes["h"].reason == ""


def test_w16_on_v69_is_refused_by_the_first_node_with_weights():
    with pytest.raises(SpecError, match=r"'qnn-htp-v69' cannot run Conv 'c' in w16a16: its weights are int4, int8"):
        plan_of("conv_relu", "w16a16", target="qnn-htp-v69")
    graph = model("g (float[N, 4] x) => (float y) { y = Relu (x) }")
    assert plan_of(graph, "w16a16", target="qnn-htp-v69").grids["y"].spec.dtype is DType.UINT16


def test_activation_width_that_the_target_lacks_is_refused(tmp_path):
    (tmp_path / "t.toml").write_text('extends = "qnn-htp-v73"\nactivation_types = ["uint8"]\n')
    graph = model("g (float[N, 4] x) => (float y) { y = Relu (x) }")
    assert plan_of(graph, target=str(tmp_path / "t.toml")).grids
    with pytest.raises(SpecError, match=r"cannot run Relu 'y' in w8a16: its activations are uint8, not uint16"):
        plan_of(graph, "w8a16", target=str(tmp_path / "t.toml"))


def test_profile_of_an_unknown_node_is_refused():
    with pytest.raises(SpecError, match="names the node 'nope', which the prepared graph does not have"):
        plan_of("gemm", nodes={"nope": "fp16"})


def test_resolve_leaves_the_model_alone():
    from fewbits.graph.save import to_bytes

    graph = ZOO["attention"]()[0]
    before = to_bytes(graph)
    for precision in ("w8a8", "fp16"):
        plan_of(graph, precision, nodes={"o": "w8a16"})
    assert to_bytes(graph) == before


def test_scalar_prelu_slope_is_per_tensor():
    graph = model(
        "g (float[N, 2, 4, 4] x) => (float y) { c = Conv (x, w) y = PRelu (c, s) }",
        w=normal(3, 2, 1, 1), s=np.float32(0.1),
    )  # fmt: skip
    assert plan_of(graph).grids["s"].spec.granularity == PerTensor()


@pytest.mark.parametrize(
    ("target", "dtype", "is_symmetric"),
    [("qnn-htp-v73", "int16", True), ("qnn-htp-v69", "uint8", False), ("ort-cpu", "uint16", False)],
)
def test_second_operand_of_a_product_of_wide_activations_has_the_type_of_the_target(target, dtype, is_symmetric):
    graph, plan = ZOO["attention"]()[0], plan_of("attention", "w8a16", target=target)
    products = [n for n in graph.graph if n.op_type == "MatMul" and not n.inputs[1].is_initializer()]
    assert products
    for node in products:
        grid = plan.grids[plan.inputs[node.name, 1]]
        assert (grid.spec.dtype.value, grid.spec.is_symmetric) == (dtype, is_symmetric)
        assert plan.grids[plan.inputs[node.name, 0]].spec.dtype is DType.UINT16
        if dtype != "uint16":
            assert grid.converts == str(node.inputs[1].name)


@pytest.mark.parametrize(("target", "highest"), [("qnn-htp-v73", 32639), ("ort-cpu", 32767)])
def test_int16_codes_stop_where_the_device_clips(target, highest):
    graph = model("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", w=normal(4, 3))
    made = quantized(graph, {"x": normal(8, 4)}, "w16a16", target=target)
    stored = next(v for name, v in made.quantized.graph.initializers.items() if name == "w_q").const_value.numpy()
    assert np.abs(stored.astype(int)).max() == highest
