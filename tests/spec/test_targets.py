import pytest

from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType
from fewbits.spec.optable import OP_TABLE
from fewbits.spec.target import DEFAULT_TARGET, load_target, target_names


@pytest.mark.parametrize("name", target_names())
def test_every_target_loads_and_names_known_operators(name):
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert DType.UINT8 in target.activation_types
    assert DType.INT8 in target.weight_types
    named = {*target.per_channel, *target.fused, *target.fixed_ranges, *target.left_float, *OP_TABLE}
    assert named | set().union(*target.fused.values()) == set(OP_TABLE)


def test_default_target_is_there():
    assert DEFAULT_TARGET in target_names()


def test_extending_replaces_whole_keys():
    v73, v69, v68 = (load_target(f"qnn-htp-v{n}") for n in (73, 69, 68))
    assert v73.fixed_ranges
    assert not v69.fixed_ranges
    assert "Conv" not in v69.fused
    assert DType.INT16 not in v69.weight_types
    assert v68.weight_types == v69.weight_types
    assert "MatMul" in v69.per_channel - v68.per_channel


def written(tmp_path, text: str) -> str:
    (tmp_path / "mine.toml").write_text(text)
    return str(tmp_path / "mine.toml")


def test_users_file_extends_a_target(tmp_path):
    target = load_target(written(tmp_path, 'extends = "qnn-htp-v73"\nfp16 = false\n'))
    assert target.name == "mine"
    assert not target.fp16
    assert target.fused == load_target("qnn-htp-v73").fused


BASE = 'extends = "qnn-htp-v73"\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BASE + 'activation_type = ["uint8"]', "unknown key 'activation_type'.* Did you mean 'activation_types'"),
        (BASE + 'activation_types = ["uint9"]', "type 'uint9' in activation_types.* Did you mean 'uint"),
        (BASE + 'activation_types = "uint8"', "activation_types = 'uint8': write a list of names in quotes"),
        (BASE + "per_channel = [1]", "per_channel = 1: write a list of names"),
        (BASE + 'per_block = ["Matmul"]', r"'Matmul' in per_block: choose of \['Conv'"),
        (BASE + 'fp16 = "false"', "fp16 = 'false': write true or false"),
        (BASE + "[fused]\nConv = 'Relu'", r"fused\.Conv = 'Relu': write a list"),
        (BASE + "[fixed_ranges]\nSoftmax = [1.0, 0.0]", r"fixed_ranges\.Softmax.*low below high"),
        (BASE + "[fixed_ranges]\nSoftmax = [0.0]", r"write \[low, high\]"),
        (BASE + "[left_float]\nErf = 3", r"left_float\.Erf = 3: write a reason"),
        ('extends = "qnn-v1"', "No target 'qnn-v1' to extend: choose one of .*qnn-htp-v73"),
        ('description = "x"', "lacks the key 'activation_types'"),
        ("a = ", "not valid TOML"),
    ],
)
def test_mistakes_in_a_file_are_named_with_a_way_out(tmp_path, text, match):
    with pytest.raises(SpecError, match=match):
        load_target(written(tmp_path, text))


def test_unknown_names_and_files_are_refused_with_a_hint(tmp_path):
    with pytest.raises(SpecError, match=r"Unknown target 'qnn-htp-v37'.* Did you mean 'qnn-htp-v"):
        load_target("qnn-htp-v37")
    with pytest.raises(SpecError, match="does not exist"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="cannot be read as text"):
        load_target(tmp_path / "bytes.toml")
