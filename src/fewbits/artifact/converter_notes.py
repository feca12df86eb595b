"""What `convert.txt` says in comments: which model to take, its inputs, its encodings and their traps."""

import textwrap

from fewbits.artifact.converter_facts import ConverterFacts
from fewbits.artifact.names import ARTIFACT, ENCODINGS, FLOAT, SAMPLES

_NEWEST_OPSET = {"2.35": 21, "2.39": 22}
OTHER_LAYOUT = "fewbits export THIS_FOLDER -o OTHER --encodings-version 0.6.1"
_LAYOUTS = """\
  0.6.1: qairt-converter, qnn-onnx-converter, snpe-onnx-to-dlc. The oldest, which AIMET calls deprecated, and the only \
one that --custom_io of qnn-onnx-converter understands (qualcomm/aimet, issues 4046 and 4069).
  1.0.0: qairt-converter, qnn-onnx-converter. AIMET's default, since 2025.
  2.0.0: qairt-converter of QAIRT 2.37 or newer, where it turns on another quantizer; AIMET's maintainers recommend \
the newest release for it (qualcomm/aimet, issues 4069 and 4102).
"""
_TRAPS = {
    "0.6.1": "",
    "1.0.0": f"""\
Trap: with --custom_io, qnn-onnx-converter of 2.37 stops at 'Bitwidth must be present' (issues 4046 and 4069). There, \
and where an older tool refuses the layout: {OTHER_LAYOUT}
""",
    "2.0.0": f"""\
Float tensors are absent from it: what has no grid becomes float.
Trap: block quantization. A w8a8 model that went through qnn-onnx-converter of 2.37 stopped at 'BQ is not supported' \
when its context binary was made (issue 4069). Another layout: {OTHER_LAYOUT}
One user reports qnn-onnx-converter of 2.44 working with this layout and --use_quantize_v2 (issue 4090).
""",
}


def about_files(facts: ConverterFacts) -> list[str]:
    """Return the first lines: what the text is, which model to take, what its precisions mean for a converter."""
    text = f"""\
Command lines of Qualcomm's converters for this folder. They were checked against public documentation and were NOT \
run by fewbits: where your release differs, believe its --help.
Run them in this folder, in a shell where bin/envsetup.sh of the SDK was sourced. A command is one line. Do one of the \
sections 1 to 5.
(b) {ARTIFACT} is the file that was scored and that `fewbits verify` checks: take it where your SDK reads it.
{_about_float(facts)}"""
    compare = f"Compare the result with {SAMPLES}, which holds inputs and what the scored file answers."
    return say(*text.splitlines(), *([compare] if facts.has_samples else []), *_opset(facts), *_floats(facts))


def _about_float(facts: ConverterFacts) -> str:
    if not facts.has_grids:
        return f"(a) {FLOAT}. Nothing is quantized to integers."
    text = f"""\
(a) {FLOAT} with {ENCODINGS} has the same grids and the original biases: the corrected ones are in (b) only, unless \
--no-bias-correction was given."""
    if facts.conversions:
        text += f""" It also lacks {facts.conversions} changes of width between two readers of a tensor, for which no \
layout has a place: there the converter chooses."""
    if facts.float_bits:
        text += """ Encodings speak of tensors: an operator that is float in (b) between two tensors with grids is up \
to the converter in (a)."""
    return f"""{text}
No command takes --input_list, since nothing is left to calibrate: what has no grid stays float. Therefore \
--act_bitwidth and --weights_bitwidth would change nothing. --bias_bitwidth 32 is for biases that a converter makes \
itself."""


def _opset(facts: ConverterFacts) -> list[str]:
    newest = ", ".join(f"{opset} for QAIRT {release}" for release, opset in _NEWEST_OPSET.items())
    too_new = " Yours is newer than both." if facts.opset > max(_NEWEST_OPSET.values()) else ""
    return [f"The models are of ONNX opset {facts.opset}. The newest that the documentation names: {newest}.{too_new}"]


def _floats(facts: ConverterFacts) -> list[str]:
    lines = []
    if facts.has_fp16:
        lines.append(
            "--float_bitwidth 16: parts of the model are float16. Models with integer and float16 parts are known to "
            "compile and then to answer nonsense (qualcomm/aimet, issue 4090): do compare."
        )
    if 32 in facts.float_bits:
        lines.append(
            "Parts of the model stay in float32. An HTP computes them in float16 all the same, and qairt-converter "
            "stores them so by default where there are encodings."
        )
    lacking = ", ".join(soc.name for soc in facts.chips if not soc.fp16)
    if facts.float_bits and lacking:
        lines.append(f"These chips compute no float16: {lacking}.")
    return lines


def about_inputs(facts: ConverterFacts) -> list[str]:
    """Return what stands in for open dimensions, and what becomes of layouts and types."""
    lines = []
    origin = f", from the first sample in {SAMPLES}" if facts.has_samples else ""
    for one in facts.inputs:
        sizes = ",".join(map(str, one.sizes))
        lines.append(f"{one.name!a}: {one.dtype} {sizes or 'scalar'}")
        lines += [
            f"  axis {axis} is open{f' ({name!a})' if name else ''}: {one.sizes[axis]} is a placeholder"
            f"{origin}; put your size into the commands"
            for axis, name in one.open_dims
        ]
    integers = [one for one in facts.inputs if not one.dtype.startswith("float")]
    if integers:
        lines.append(
            f'The page "Tools" says that inputs count as float32 unless told: if your release does so with '
            f"{integers[0].name!a}, add --source_model_input_datatype with its name and {integers[0].dtype}."
        )
    lines.append(
        "qairt-converter keeps the layout of the inputs; the older converters turn NCHW into NHWC, and --preserve_io "
        "layout keeps it. Inputs and outputs with a grid become integers: --preserve_io_datatype (older: --preserve_io "
        "datatype) keeps their type."
    )
    return say(*lines)


def about_encodings(facts: ConverterFacts) -> list[str]:
    """Return which tools take which layout, and the traps of this one."""
    lines = [f"{ENCODINGS} has AIMET's layout {facts.version}. Which tools take which:", *_LAYOUTS.splitlines()]
    lines += _TRAPS.get(facts.version, "").splitlines()
    if 4 in facts.weight_bits:
        lines.append("4-bit weights: the grids say so; see the page \"Quantization\", section \"Packed 4-bit "
                     "Quantization\", for how your release stores them.")  # fmt: skip
    if facts.has_blocks:
        lines.append(
            "Weights have a scale per block: QNN 2.29 takes them with float16 activations only (qualcomm/aimet, issue "
            "3591); later releases differ."
        )
    return say(*lines)


def say(*paragraphs: str) -> list[str]:
    """Return paragraphs as comments of at most 110 columns; what hangs keeps its indent."""
    lines: list[str] = []
    for text in paragraphs:
        indent = " " * (len(text) - len(text.lstrip()))
        lines += textwrap.wrap(
            text, 110, initial_indent="# ", subsequent_indent=f"# {indent}", break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines
