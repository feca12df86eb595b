import copy
import json
import random

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.aimet_config import LEFT_FLOAT
from fewbits.spec.dtypes import DType, PerChannel, PerTensor
from fewbits.spec.target import Target, load_target, target_names
from fewbits.workflow.baseline import baseline
from fewbits.workflow.quantize import quantize

BIAS = "Biases are int32"


def plain() -> dict:
    """The least that AIMET takes, in which fewbits carries out everything but the biases."""
    return {
        "defaults": {
            "ops": {"is_output_quantized": "True"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {},
        "supergroups": [],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
    }


def rich() -> dict:
    """A file that uses every section and key."""
    kernel = {"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}}
    return {
        "defaults": {
            "hw_version": "V75",
            "ops": {"is_output_quantized": "True", "is_symmetric": "False"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "strict_symmetric": "False",
            "unsigned_symmetric": "True",
            "per_channel_quantization": "False",
            "supported_kernels": [kernel],
        },
        "params": {"bias": {"is_quantized": "True"}, "weight": {"is_symmetric": "True"}},
        "op_type": {
            "Conv": {"per_channel_quantization": "True", "params": {"bias": {"is_quantized": "False"}}},
            "Softmax": {"encoding_constraints": {"min": 0.0, "max": 1.0}},
            "Erf": {"is_input_quantized": "False", "is_output_quantized": "False"},
            "LayerNormalization": {"params": {"weight": {"is_symmetric": "False"}}},
            "Mul": {"is_symmetric": "True", "supported_kernels": [kernel]},
        },
        "supergroups": [{"op_list": ["Conv", "Relu"]}, {"op_list": ["Conv", "Transpose", "Relu"]}],
        "supergroup_pass_list": ["MatmulAdd"],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {"is_output_quantized": "True"},
    }


@pytest.fixture
def read(tmp_path):
    """Return the target that a document describes."""

    def target_of(document) -> Target:
        (tmp_path / "mine.json").write_text(document if isinstance(document, str) else json.dumps(document))
        return load_target(f"aimet:{tmp_path / 'mine.json'}")

    return target_of


def changed(place: str, value, base=plain) -> dict:
    """Return a document with one value set, `place` being its dotted place; ... takes the key out."""
    document = copy.deepcopy(base())
    *path, last = place.split(".")
    table = document
    for key in path:
        table = table.setdefault(key, {})
    if value is ...:
        del table[last]
    else:
        table[last] = value
    return document


def test_a_plain_file_leaves_everything_to_fewbits(read):
    target = read(plain())
    assert target.name == "aimet:mine.json"
    assert target.description == "AIMET configuration mine.json"
    assert (target.per_channel, target.fused, target.fixed_ranges, target.left_float) == (frozenset(), {}, {}, {})
    assert target.gamma_follows_activation
    (note,) = target.notes
    assert note.startswith(BIAS)


def test_targets_of_toml_have_no_notes():
    assert all(load_target(name).notes == () for name in target_names())


def test_per_channel_of_an_operator_wins_over_the_default(read):
    some = changed("op_type", {"Conv": {"per_channel_quantization": "True"}, "Add": {}, "Relu": {}})
    assert read(some).per_channel == {"Conv"}
    most = changed("defaults.per_channel_quantization", "True")
    most["op_type"] = {"Gemm": {"per_channel_quantization": "False"}}
    assert read(most).per_channel == {"Conv", "ConvTranspose", "MatMul", "PRelu"}


def groups(*lists) -> dict:
    return changed("supergroups", [{"op_list": list(ops)} for ops in lists])


def test_supergroups_of_two_are_fused_where_fewbits_can(read):
    target = read(groups(["Conv", "Relu"], ["Conv", "PRelu"], ["Add", "Gelu"], ["MatMul", "Add"], ["Foo", "Relu"]))
    assert target.fused == {"Conv": {"Relu", "PRelu"}, "Add": {"Gelu"}}
    (note,) = (n for n in target.notes if "supergroups" in n)
    assert "MatMul + Add, Foo + Relu," in note
    assert "Conv" not in note


@pytest.mark.parametrize(
    "lists",
    [
        (["Conv", "BatchNormalization"],),
        (["Conv", "BatchNormalization", "Relu"], ["Conv", "Relu"]),
        (["MaxPool", "Relu"],),
    ],
)
def test_supergroups_in_which_no_grid_would_remain_need_no_note(read, lists):
    target = read(groups(*lists))
    assert not [note for note in target.notes if "supergroups" in note]
    assert not {*target.fused} - {"Conv"}


@pytest.mark.parametrize(
    "ops",
    [
        ("Conv", "BatchNormalization", "HardSwish"),  # folded, it is Conv + HardSwish, of which nothing is said
        ("Conv", "Transpose", "Relu"),
        ("Conv", "Relu", "Sigmoid"),
        ("AveragePool", "BatchNormalization"),
        ("Conv", "Transpose"),
        ("MaxPool", "BatchNormalization"),
    ],
)
def test_supergroups_that_are_not_fused_are_named(read, ops):
    target = read(groups(ops))
    assert target.fused == {}
    assert any(f"Grids stay inside {' + '.join(ops)}, although" in note for note in target.notes)


def test_long_lists_in_notes_are_cut(read):
    target = read(groups(*(["Conv", f"Op{i}"] for i in range(30))))
    (note,) = (n for n in target.notes if "supergroups" in n)
    assert "Conv + Op7 and 22 more" in note


def test_constraints_become_fixed_ranges(read):
    target = read(changed("op_type.Softmax.encoding_constraints", {"min": 0, "max": 1.0}))
    assert target.fixed_ranges == {"Softmax": (0.0, 1.0)}
    assert len(target.notes) == 1


@pytest.mark.parametrize(
    ("op_type", "constraint", "is_noted"),
    [
        ("Relu", {"min": 0.0}, False),  # it is so anyway
        ("Relu", {"min": -1.0}, True),
        ("Add", {"min": 0.0}, True),
        ("Reshape", {"min": 0.0, "max": 1.0}, True),
    ],
)
def test_constraints_that_are_not_carried_out_are_noted(read, op_type, constraint, is_noted):
    target = read(changed(f"op_type.{op_type}.encoding_constraints", constraint))
    assert target.fixed_ranges == {}
    assert any(f"Ranges of {op_type} are calibrated" in note for note in target.notes) is is_noted


def test_what_computes_without_quantizers_is_left_in_float(read):
    nothing = {"is_input_quantized": "False", "is_output_quantized": "False"}
    outputs = {"is_output_quantized": "False"}
    target = read(changed("op_type", {"Erf": nothing, "Gather": outputs, "Mean": outputs, "Cast": outputs}))
    assert target.left_float == {"Erf": LEFT_FLOAT}
    assert [n for n in target.notes if not n.startswith(BIAS)] == [
        "Outputs of Mean are quantized, although the AIMET configuration leaves them in float."
    ]
    assert "Reshape" not in read(changed("op_type.Reshape", nothing)).left_float


@pytest.mark.parametrize("op_type", ["LayerNormalization", "InstanceNormalization"])
def test_scales_of_normalizations_follow_the_activations_as_in_aimets_simulation(read, op_type):
    target = read(changed(f"op_type.{op_type}.params.weight.is_symmetric", "False"))
    assert target.gamma_follows_activation
    assert len(target.notes) == 1
    other = read(changed(f"op_type.{op_type}.params.weight.is_symmetric", "True"))
    assert other.gamma_follows_activation
    assert f"wants symmetric ones for {op_type}" in " ".join(other.notes)


@pytest.mark.parametrize(
    ("version", "base"),
    [
        ("V66", "qnn-htp-v68"), ("V68", "qnn-htp-v68"), ("V69", "qnn-htp-v69"), ("V73", "qnn-htp-v73"),
        ("v81", "qnn-htp-v81"), ("V85", "qnn-htp-v81"), ("", None), ("other 7", None),
    ],
)  # fmt: skip
def test_what_the_format_cannot_say_is_that_of_the_generation(read, version, base):
    target = read(changed("defaults.hw_version", version))
    assert target.activation_types == {DType.UINT8, DType.UINT16}
    assert (DType.INT16 in target.weight_types) is (version not in ("V66", "V68", "V69"))
    assert DType.INT4 in target.weight_types
    if base is None:
        assert target.int4_per_tensor
        assert target.widest_gamma == 16
    else:
        own = load_target(base)
        assert (target.int4_per_tensor, target.widest_gamma) == (own.int4_per_tensor, own.widest_gamma)
        assert target.description.endswith(f"for {version}; what it leaves open is as in {base}")
    assert target.left_float == {}


SILENT = [
    ("defaults.strict_symmetric", "True"),
    ("defaults.unsigned_symmetric", "False"),
    ("supergroup_pass_list", ["MatmulAdd"]),
    ("model_output.is_output_quantized", "True"),
    ("op_type.Add.is_input_quantized", "True"),
    ("op_type.Cast.is_output_quantized", "False"),
    ("op_type.BatchNormalization.params.running_mean.is_quantized", "False"),
]
NOTED = [
    ("defaults.ops.is_symmetric", "True", "symmetric for all operators."),
    ("op_type.Add.is_symmetric", "True", "wants them symmetric for Add."),
    ("defaults.strict_symmetric", "False", "strict_symmetric = False"),
    ("defaults.unsigned_symmetric", "True", "unsigned_symmetric = True"),
    ("defaults.supported_kernels", [{"activation": {"bitwidth": 8, "dtype": "int"}}], "kernels of all operators"),
    ("op_type.Add.supported_kernels", [{"activation": {"bitwidth": 8, "dtype": "int"}}], "kernels of Add."),
    ("op_type.Conv.params.weight.is_quantized", "False", "Weights of Conv are quantized"),
    ("op_type.Gemm.params.weight", {"is_quantized": "False", "is_symmetric": "False"}, "Weights of Gemm are quantized"),
    ("op_type.Gemm.params.weight.is_symmetric", "False", "Weights of Gemm are symmetric"),
    ("op_type.GroupNormalization.params.weight.is_symmetric", "True", "symmetric ones for GroupNormalization"),
    ("op_type.LayerNormalization.per_channel_quantization", "True", "Scales of LayerNormalization are quantized per"),
    ("op_type.Conv.params.bias.is_quantized", "True", "(gives them grids of their own for Conv)"),
    ("params.bias.is_quantized", "True", "although the AIMET configuration gives them grids of their own."),
    ("op_type.Mean.is_output_quantized", "False", "Outputs of Mean are quantized"),
    ("op_type.Mean.is_input_quantized", "False", "Inputs of Mean are quantized"),
    ("defaults.ops", {}, "Outputs of all operators are quantized"),
    ("op_type.Reshape.is_output_quantized", "True", "Outputs of Reshape are on the grid of their input"),
    ("model_input", {}, "Inputs of the model are quantized"),
    ("model_output.is_output_quantized", "False", "Outputs of the model are quantized"),
    ("supergroup_pass_list", ["RMSNormalization", "MatmulAdd"], "graph passes RMSNormalization find"),
    ("op_type.ChannelShuffle.is_output_quantized", "False", "fewbits does not know ChannelShuffle"),
    ("op_type.BatchNormalization.per_channel_quantization", "True", "Settings of BatchNormalization"),
    ("params.wieght.is_symmetric", "False", "does not know the parameters wieght,"),
]


@pytest.mark.parametrize(("place", "value"), SILENT)
def test_what_fewbits_does_anyway_is_not_noted(read, place, value):
    assert read(changed(place, value)).notes == read(plain()).notes


@pytest.mark.parametrize(("place", "value", "says"), NOTED)
def test_what_is_not_carried_out_is_said_in_one_sentence(read, place, value, says):
    notes = read(changed(place, value)).notes
    (new,) = set(notes) - {n for n in read(plain()).notes if n in notes}
    assert says in new
    assert new.endswith(".")
    assert "\n" not in new


def test_sentences_group_operators(read):
    settings = {op: {"is_output_quantized": "False"} for op in ("Mul", "Add", "Sub")}
    assert "Outputs of Add, Mul, Sub are" in read(changed("op_type", settings)).notes[-1]
    document = changed("defaults.ops.is_symmetric", "True")
    document["op_type"] = {"Add": {"is_symmetric": "False"}}
    assert "symmetric for all operators but Add." in read(document).notes[0]


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ("{", "'.*mine.json' is not valid JSON: Expecting"),
        ("[" * 200_000, "is not valid JSON"),
        ("[]", "no quantsim configuration of AIMET, which has the sections defaults, params,"),
        ('{"name": 3}', "no quantsim configuration"),
        ('{"version": "1.0.0", "activation_encodings": []}', "holds encodings.* give it to --encodings"),
        (changed("op_type", ...), "lacks the section 'op_type': write it, empty where it says nothing"),
        (changed("op_types", {}), "unknown section 'op_types': choose of defaults.* Did you mean 'op_type'"),
        (changed("defaults.params", ...), "lacks the key 'params' in defaults"),
        (
            changed("defaults.ops.is_symetric", "True"),
            "key 'is_symetric' in defaults.ops.* Did you mean 'is_symmetric'",
        ),
        (changed("defaults.ops.is_quantized", "True"), "unknown key 'is_quantized' in defaults.ops"),
        (changed("op_type.Conv.per_channel", "True"), "in op_type.Conv.* Did you mean 'per_channel_quantization'"),
        (changed("op_type.Conv.params.weight.bits", 8), "key 'bits' in op_type.Conv.params.weight: choose of is_"),
        (changed("model_input.is_output_quantized", "True"), "in model_input.* Did you mean 'is_input_quantized'"),
        (changed("op_type.Conv.is_symmetric", True), r'op_type.Conv.is_symmetric = True: write "True" or "False", in'),
        (changed("params.bias.is_quantized", "true"), "params.bias.is_quantized = 'true': write"),
        (changed("defaults.strict_symmetric", None), "defaults.strict_symmetric = None: write"),
        (changed("defaults.hw_version", 73), "hw_version = 73: write a line of text, such as V73"),
        (changed("op_type", []), r"op_type = \[\]: write a table in braces"),
        (changed("op_type.Conv", "True"), "op_type.Conv = 'True': write a table in braces"),
        (changed("op_type.a b", {}), "op_type = 'a b': write names in quotes, each one word"),
        (changed("supergroups", {}), "supergroups = {}: write a list of tables"),
        (changed("supergroups", [{}]), "lacks the key 'op_list' in supergroups"),
        (groups(["Conv"]), r"supergroups.op_list = \['Conv'\]: write two operators or more"),
        (groups(["Conv", 3]), "supergroups.op_list = 3: write names in quotes"),
        (changed("supergroup_pass_list", "MatmulAdd"), "supergroup_pass_list = 'MatmulAdd': write a list of names"),
        (
            changed("op_type.Tanh.encoding_constraints", {"max": 1}),
            "lacks the key 'min' in .*Tanh.encoding_constraints",
        ),
        (changed("op_type.Tanh.encoding_constraints", {"min": 1, "max": 1}), "write finite numbers, min below max"),
        (changed("op_type.Tanh.encoding_constraints", {"min": 2, "max": 1}), "write finite numbers, min below max"),
        (changed("op_type.Tanh.encoding_constraints", {"min": float("nan")}), "min below max"),
        (changed("op_type.Tanh.encoding_constraints", {"min": 0, "max": float("inf")}), "min below max"),
        (changed("op_type.Tanh.encoding_constraints", {"min": 0, "max": 10**400}), "min below max"),
        (changed("op_type.Tanh.encoding_constraints", {"min": "0"}), "write a number as min"),
        (changed("op_type.Tanh.encoding_constraints", {"min": False}), "write a number as min"),
        (changed("op_type.Tanh.encoding_constraints", None), "encoding_constraints = None: write a table"),
        (changed("defaults.supported_kernels", [{"activations": {}}]), "Did you mean 'activation'"),
    ],
)
def test_mistakes_are_named_with_a_way_out(read, document, match):
    with pytest.raises(SpecError, match=match):
        read(document)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(SpecError, match=r"'none.json' does not exist: write aimet:FILE.json"):
        load_target("aimet:none.json")
    with pytest.raises(SpecError, match="'' does not exist"):
        load_target("aimet:")
    with pytest.raises(SpecError, match="does not exist"):
        load_target(f"aimet:{tmp_path}")
    with pytest.raises(SpecError, match=r"cannot be read|does not exist"):
        load_target("aimet:" + "x" * 5000)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not valid JSON"):
        load_target(f"aimet:{tmp_path / 'bytes.json'}")
    with pytest.raises(SpecError, match=r"Unknown target 'c.json'.* Did you mean 'aimet:c.json'"):
        load_target("c.json")


def test_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(rich()))
    monkeypatch.chdir(tmp_path)
    assert load_target("aimet:mine.json") == load_target(f"aimet:{tmp_path / 'mine.json'}")


def places(value, path=()) -> list[tuple]:
    """Return the path of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


JUNK = (..., None, True, 0, -1, 1e308, 10**30, "", "True", "False", "true", "Conv", "é[/x]\ud800", [], {}, [[]], [{}],
        {"": {}}, {"is_symmetric": "True"}, {"min": 1, "max": -1}, {"op_list": ["A", "B"]})  # fmt: skip


def mutated(document, place: tuple, value):
    if not place:
        return {} if value is ... else value
    table = document
    for key in place[:-1]:
        table = table[key]
    if value is ...:
        del table[place[-1]]
    else:
        table[place[-1]] = copy.deepcopy(value)
    return document


def is_taken(read, text: str) -> bool:
    """Whether a text is taken as a target; what is refused is refused in a sentence that names the file."""
    try:
        target = read(text)
    except SpecError as error:
        message = str(error)
    else:
        assert all(low < high for low, high in target.fixed_ranges.values())
        assert target.description.isprintable()
        assert all(note.endswith(".") and note.isprintable() for note in target.notes)
        return True
    assert "mine.json" in message
    assert message.isprintable()
    return False


def test_one_changed_value_is_taken_or_refused_in_a_sentence(read):
    cases = [json.dumps(mutated(rich(), place, value)) for place in places(rich()) for value in JUNK]
    taken = sum(is_taken(read, text) for text in cases)
    assert len(cases) > 1000
    assert 50 < taken < len(cases) - taken


def test_many_changed_values_are_taken_or_refused_in_a_sentence(read):
    rng, seen = random.Random(5), set()
    for _ in range(600):
        document = rich()
        for _ in range(rng.randint(2, 4)):
            document = mutated(document, rng.choice(places(document)[1:]), rng.choice(JUNK))
        seen.add(is_taken(read, json.dumps(document)))
    assert seen == {True, False}


def test_half_a_file_is_refused(read):
    text = json.dumps(rich())
    assert is_taken(read, text)
    assert not any(is_taken(read, text[:end]) for end in range(0, len(text) - 1, 7))


NETWORK = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[1, 2, 6, 6] x) => (float[1, 4] y)
{
  [conv] c = Conv (x, w)
  [prelu] p = PRelu (c, slope)
  [erf] e = Erf (p)
  [tanh] t = Tanh (e)
  [pool] g = GlobalAveragePool (t)
  [flat] f = Flatten (g)
  [head] y = Gemm <transB = 1> (f, v)
}
"""


def test_a_plan_follows_the_file(read):
    model = onnx.parser.parse_model(NETWORK)
    for name, shape in (("w", (4, 2, 3, 3)), ("slope", (4, 1, 1)), ("v", (4, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    model = onnx.shape_inference.infer_shapes(model)
    document = groups(["Conv", "PRelu"])
    document["op_type"] = {
        "Conv": {"per_channel_quantization": "True"},
        "Erf": {"is_input_quantized": "False", "is_output_quantized": "False"},
        "Tanh": {"encoding_constraints": {"min": -1.0, "max": 1.0}},
    }
    plan = resolve(ir.from_proto(model), Profile.parse("w8a8"), read(document))
    assert "c" not in plan.grids
    assert plan.grids["w"].spec.granularity == PerChannel(0)
    assert plan.grids["v"].spec.granularity == PerTensor()
    assert plan.nodes["erf"].reason == LEFT_FLOAT
    assert plan.grids["t"].fixed_range == (-1.0, 1.0)
    assert plan.grids["y"].fixed_range is None


@pytest.fixture
def tiny_target(tmp_path) -> str:
    document = changed("op_type.ChannelShuffle.is_output_quantized", "False")
    (tmp_path / "mine.json").write_text(json.dumps(document))
    return f"aimet:{tmp_path / 'mine.json'}"


def test_quantize_hands_the_notes_on(tiny, tiny_target):
    result = quantize(tiny.model, data=tiny.calib, target=tiny_target, ranges="minmax", weight_ranges="absmax")
    assert result.record.target == "aimet:mine.json"
    assert result.record.notes[:2] == load_target(tiny_target).notes


def test_baseline_gives_the_notes_once(tiny, tiny_target):
    result = baseline(
        tiny.model, data=tiny.calib, target=tiny_target, precisions=["w8a8", "w8a16"], ranges="minmax",
        weight_ranges="absmax",
    )  # fmt: skip
    assert result.record.notes[:2] == load_target(tiny_target).notes
    assert sum(BIAS in note for note in result.record.notes) == 1


def test_the_listing_says_that_files_are_targets_too():
    shown = CliRunner().invoke(app, ["targets"]).stdout
    assert "FILE.toml" in shown
    assert "aimet:FILE.json" in shown
