"""convert.txt: commands that a shell can read, of documented options, about files that exist."""

import json
import re
import shlex
import subprocess

import numpy as np
import onnx
import onnx.parser
import pytest

import fewbits
from fewbits.artifact import names
from fewbits.artifact.converter_commands import converter_commands
from fewbits.artifact.converter_facts import ConverterFacts, ConverterInput, _inputs, read_facts
from fewbits.artifact.converter_flags import CONFIG_KEYS, FLAGS, PAGES
from fewbits.artifact.encodings_versions import VERSIONS
from fewbits.artifact.names import ARTIFACT, ENCODINGS, FLOAT
from fewbits.reporting.record import read_record
from fewbits.spec.soc import find_soc

IMAGE = ConverterInput("image", "float32", (1, 3, 8, 8), ((0, "N"),))
W8A8 = {"weight_bits": frozenset({8}), "activation_bits": frozenset({8})}
ODD = [
    "a b",
    "it's",
    'say "hi"',
    "$HOME",
    "`id`",
    "line\nbreak",
    "a;b|c&d",
    "#not a comment",
    "back\\slash",
    "日本",
    "*",
]


def facts(**given):
    return ConverterFacts(**{"inputs": (IMAGE,), "version": "1.0.0", "target": "qnn-htp-v73", "opset": 21, **given})


def commands(text):
    """Return the words of every command, as a shell reads them; a quoted name may go over several lines."""
    found, open_line = [], ""
    for line in text.split("\n"):
        if not open_line and (not line or line.startswith("#")):
            continue
        open_line += line
        try:
            found.append(shlex.split(open_line))
        except ValueError:
            open_line += "\n"
        else:
            open_line = ""
    assert not open_line
    return found


def of(text, tool, after=""):
    return [words for words in commands(text[text.index(after) :]) if words[0] == tool]


def section(text, number):
    return text[text.index(f"# ---- {number}.") :].split("\n# ---- ")[0]


def options(words):
    """Return option -> values of a command."""
    found: dict[str, list[list[str]]] = {}
    for word in words[1:]:
        if word in FLAGS[words[0]] or word.startswith("--"):
            found.setdefault(word, []).append([])
        else:
            list(found.values())[-1][-1].append(word)
    return found


@pytest.fixture(scope="module")
def mixed_folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "out"
    profile = {"head": "fp16", "conv2": "w4a16"}
    fewbits.quantize(tiny.model, data=tiny.calib, profile=profile, ranges="minmax", output=folder)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bits", [frozenset(), frozenset({16}), frozenset({32}), frozenset({16, 32})], ids=str)
@pytest.mark.parametrize("widths", [{}, W8A8], ids=["float", "w8a8"])
def test_every_option_is_one_that_a_page_documents(version, bits, widths):
    text = converter_commands(facts(version=version, float_bits=bits, **widths))
    tools = [words for words in commands(text) if words[0] != "printf"]
    assert {words[0] for words in tools} >= {"qairt-converter", "qnn-context-binary-generator"}
    for words in tools:
        for option in options(words):
            page = FLAGS[words[0]][option]
            assert f"{option} [{page}]" in " ".join(line.removeprefix("# ") for line in text.split("\n"))
            assert f"# [{page}] " in text


def test_the_table_names_pages_that_exist():
    pages = [page for flags in FLAGS.values() for page in flags.values()] + list(CONFIG_KEYS.values())
    assert set(pages) == set(PAGES)


@pytest.mark.parametrize("which", ["quantized_folder", "mixed_folder"])
def test_every_file_is_in_the_folder_or_made_by_a_command_before(which, request):
    folder = request.getfixturevalue(which)
    text = (folder / names.COMMANDS).read_text(encoding="utf-8")
    made: set[str] = set()
    for words in commands(text):
        if words[0] == "printf":
            assert words[-2] == ">"
            made.add(words[-1])
            continue
        given = {option: values[0][0] for option, values in options(words).items() if values[0]}
        read = ("--input_network", "--quantization_overrides", "--input_dlc", "--dlc_path", "--config_file", "-c", "-b")
        for path in (given[option] for option in read if option in given):
            assert (folder / path).is_file() or path in made, path
        made |= {given[option] for option in ("--output_path", "--output_dlc") if option in given}
        if words[0] == "qnn-onnx-converter":
            made.add(given["--output_path"].replace(".cpp", ".bin"))
        if words[0] == "qnn-model-lib-generator":
            made.add(f"{given['-o']}/{given['-t']}/lib{given['-c'].removesuffix('.cpp')}.so")
        if "--model" in given and "--dlc_path" not in given:
            assert given["--model"] in made
    assert f"--input_network {ARTIFACT}" in text
    assert f"--input_network {FLOAT} --quantization_overrides {ENCODINGS}" in text


@pytest.mark.parametrize("name", ODD)
def test_names_reach_the_tool_as_they_are(name):
    text = converter_commands(facts(inputs=(ConverterInput(name, "int64", (2, 7)),), **W8A8))
    shapes = [words for words in commands(text) if words[0] in ("qairt-converter", "qnn-onnx-converter")]
    assert len(shapes) == 4
    for words in shapes:
        option = next(o for o in words if o in ("--source_model_input_shape", "--desired_input_shape", "--input_dim"))
        at = words.index(option)
        assert words[at + 1 : at + 3] == [name, "2,7"]
    # a real shell gives the same words, and does nothing else
    line = re.search(r"qairt-converter .*?--source_model_input_shape (.*?) 2,7", text, re.DOTALL)[1]
    echoed = subprocess.run(["sh", "-c", f"printf %s {line}"], capture_output=True, check=True)
    assert echoed.stdout.decode() == name


def test_the_shell_reads_the_whole_text(tmp_path):
    """Without the tools every command fails by itself, and no comment or name breaks out."""
    inputs = tuple(ConverterInput(name, "float32", (1,), ((0, name),)) for name in ODD)
    text = converter_commands(facts(inputs=inputs, target=ODD[1], float_bits=frozenset({32}), conversions=2, **W8A8))
    done = subprocess.run(["sh"], input=text.encode(), cwd=tmp_path, capture_output=True, check=False)
    expected = [words[0] for words in commands(text) if words[0] != "printf"]
    assert re.findall(r"(\S+): (?:command )?not found", done.stderr.decode()) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"htp.json", "backend.json"}


def test_the_chip_of_the_target_is_named(tmp_path):
    text = converter_commands(facts(target="qnn-htp-v75"))
    for words in commands(text)[:2]:
        (tmp_path / words[-1]).write_text(words[2])
    backend = json.loads((tmp_path / "backend.json").read_text())
    chip = json.loads((tmp_path / backend["backend_extensions"]["config_file_path"]).read_text())
    assert chip == {"devices": [{"soc_model": find_soc("sm8650").id, "dsp_arch": "v75"}]}
    assert {*backend, *backend["backend_extensions"], *chip, *chip["devices"][0]} == set(CONFIG_KEYS)
    assert of(text, "snpe-dlc-graph-prepare")[0][-2:] == ["--htp_archs", "v75"]


def test_a_target_without_a_generation_says_so():
    assert "put your chip here" not in converter_commands(facts())
    text = converter_commands(facts(target="ort-cpu"))
    assert "# The model was made for 'ort-cpu', which names no HTP generation: put your chip here." in text
    assert "Trap" not in converter_commands(facts(version="0.6.1"))


def test_float16_parts_get_the_option_wherever_a_page_has_it():
    text = converter_commands(facts(float_bits=frozenset({16}), **W8A8))
    for tool, count in (("qairt-converter", 2), ("snpe-onnx-to-dlc", 1), ("snpe-dlc-quant", 1)):
        found = of(text, tool)
        assert len(found) == count
        assert all(options(words)["--float_bitwidth"] == [["16"]] for words in found)
    assert section(text, 3).startswith("# ---- 3.")
    for number in (3, 4):  # no page of these tools has the option, or it is known not to work
        assert "Left out" in section(text, number)
        assert not commands(section(text, number))
    assert "--float_bitwidth" not in converter_commands(facts(float_bits=frozenset({32}), **W8A8))


def test_chips_without_float16_are_named():
    text = converter_commands(facts(target="qnn-htp-v68", float_bits=frozenset({16})))
    assert "# These chips compute no float16: qcs6490." in text
    assert "compute no" not in converter_commands(facts(target="qnn-htp-v68"))
    assert "compute no" not in converter_commands(facts(float_bits=frozenset({16})))


def test_a_float_model_has_no_encodings_to_override():
    text = converter_commands(facts(float_bits=frozenset({16})))
    assert ENCODINGS not in " ".join(word for words in commands(text) for word in words)
    assert not of(text, "snpe-dlc-quant")
    assert not of(text, "qairt-quantizer")
    (prepare,) = of(text, "snpe-dlc-graph-prepare")
    assert options(prepare)["--input_dlc"] == options(of(text, "snpe-onnx-to-dlc")[0])["--output_path"]


def test_nothing_is_left_to_calibrate():
    for version in VERSIONS:
        words = {w for c in commands(converter_commands(facts(version=version, **W8A8))) for w in c}
        assert not words & {"--input_list", "--act_bitwidth", "--weights_bitwidth", "--ignore_encodings"}
    text = converter_commands(facts(**W8A8))
    for tool in ("qairt-quantizer", "qnn-onnx-converter", "snpe-dlc-quant"):
        assert "--float_fallback" in of(text, tool)[0]
    assert all(options(of(text, t)[0])["--bias_bitwidth"] == [["32"]] for t in ("qnn-onnx-converter", "snpe-dlc-quant"))


def test_each_layout_goes_to_the_tools_that_take_it():
    for version, left_out in (("0.6.1", ()), ("1.0.0", ()), ("2.0.0", (3, 4, 5))):
        text = converter_commands(facts(version=version, **W8A8))
        assert f"layout {version}." in text
        for number in range(1, 6):
            assert bool(commands(section(text, number))) == (number not in left_out)
    assert "2. (a) float model and encodings, QAIRT 2.37 or newer" in text
    assert "BQ is not" in text
    assert "custom_io" in converter_commands(facts(version="1.0.0"))


def test_widths_that_no_converter_knows_leave_the_qdq_model_only():
    text = converter_commands(facts(weight_bits=frozenset({6, 8}), activation_bits=frozenset({5})))
    assert commands(section(text, 1))
    for number in range(2, 6):
        assert "# Left out: 6-bit weights, 5-bit activations." in section(text, number)
        assert not commands(section(text, number))


def test_an_input_without_axes_has_no_shape():
    text = converter_commands(facts(inputs=(ConverterInput("t", "float32", ()), IMAGE)))
    assert [w for w in of(text, "qairt-converter")[0] if w in ("t", "image")] == ["image"]
    assert "# 't': float32 scalar" in text


@pytest.mark.parametrize("opset", [21, 23])
def test_an_opset_beyond_the_documentation_is_said(opset):
    text = " ".join(converter_commands(facts(opset=opset)).replace("\n# ", " ").split())
    assert ("newer than both" in text) == (opset > 22)
    assert f"ONNX opset {opset}." in text


def test_the_text_says_what_it_is_and_does_not_change():
    text = converter_commands(facts())
    assert "NOT run by fewbits" in text.split("\n# ---- ")[0]
    assert text == converter_commands(facts())
    assert not re.search(r"(?<![\w.])/(home|tmp|work|usr)|\b20\d\d-\d\d-\d\d", text)


def test_facts_are_those_of_the_folder(quantized_folder, mixed_folder):
    plain = read_facts(quantized_folder, "qnn-htp-v73", {"w8a8": 8, "fp32": 1})
    assert plain == ConverterFacts(
        (IMAGE,), "1.0.0", "qnn-htp-v73", 21, frozenset({8}), frozenset({8}), frozenset({32}), False, 0
    )
    counts = read_record(mixed_folder / names.RECORD).precision
    assert {"w8a8", "w4a16", "fp16", "fp32"} == set(counts)
    mixed = read_facts(mixed_folder, "qnn-htp-v73", counts)
    assert (mixed.weight_bits, mixed.activation_bits) == (frozenset({4, 8}), frozenset({8, 16}))
    assert mixed.float_bits == frozenset({16, 32})
    text = (mixed_folder / names.COMMANDS).read_text()
    assert text == converter_commands(mixed)
    assert "Packed 4-bit" in text
    document = json.loads((mixed_folder / ENCODINGS).read_text())
    assert mixed.conversions == len(document["fewbits"]["conversions"])
    assert ("changes of width" in text) == bool(mixed.conversions)


def test_open_dimensions_get_the_sizes_of_the_data_and_say_that_they_are_placeholders(tmp_path):
    text = "g (float[batch, h, 8] x, float[k, 8] bias) => (float[batch, h, 8] y) {m = MatMul (x, w) y = Add (m, bias)}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((4, 7, 8)), "bias": rng.standard_normal((1, 8))}
    np.savez(tmp_path / "d.npz", **{name: array.astype(np.float32) for name, array in feeds.items()})
    fewbits.quantize(tmp_path / "m.onnx", data=tmp_path / "d.npz", dims={"k": 1}, output=tmp_path / "out")
    written = (tmp_path / "out" / names.COMMANDS).read_text()
    for words in of(written, "qairt-converter")[:2]:
        assert options(words)["--source_model_input_shape"] == [["x", "1,7,8"], ["bias", "1,8"]]
    said = " ".join(written.replace("\n# ", " ").split())
    assert "axis 0 is open ('batch'): 1 is a placeholder" in said
    assert "axis 1 is open ('h'): 7 is a placeholder" in said
    assert "'k'" not in said  # fixed by the user


def test_a_folder_without_samples_says_nothing_of_them(quantized_folder, tmp_path):
    for name in (FLOAT, ENCODINGS):
        (tmp_path / name).write_bytes((quantized_folder / name).read_bytes())
    found = read_facts(tmp_path, "qnn-htp-v73", ["w8a8"])
    assert found.inputs == (IMAGE,)
    text = " ".join(converter_commands(found).replace("\n# ", " ").split())
    assert "axis 0 is open ('N'): 1 is a placeholder; put your size into the commands" in text
    assert names.SAMPLES not in text
    assert names.SAMPLES in converter_commands(facts())


def test_an_input_of_unknown_rank_takes_the_shape_of_its_sample():
    graph = onnx.GraphProto(input=[onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, None)])
    assert _inputs(graph, {"x": np.zeros((2, 5))}) == (ConverterInput("x", "int64", (2, 5), ((0, ""), (1, ""))),)
    assert _inputs(graph, {}) == (ConverterInput("x", "int64", ()),)
    graph.initializer.add(name="x")
    assert _inputs(graph, {}) == ()
