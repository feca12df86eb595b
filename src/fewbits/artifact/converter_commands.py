"""The text of `convert.txt`: command lines of Qualcomm's converters for the files of one output folder.

In: facts of the folder. Out: text for a POSIX shell, in which a line is empty, a comment, or a command with its options
from `converter_flags`. The same facts give the same text: no times, no absolute paths.
"""

import json
import shlex
from collections.abc import Sequence

from fewbits.artifact.converter_facts import ConverterFacts
from fewbits.artifact.converter_flags import FLAGS, PAGES
from fewbits.artifact.converter_notes import OTHER_LAYOUT, about_encodings, about_files, about_inputs, say
from fewbits.artifact.names import ARTIFACT, ENCODINGS, FLOAT

_WEIGHT_BITS, _ACTIVATION_BITS = frozenset({4, 8, 16}), frozenset({8, 16})
"""Widths that the page "Tools" names for snpe-dlc-quant and qairt-quantizer."""
_CHIP, _BACKEND = "htp.json", "backend.json"
_SHAPE = "--source_model_input_shape"


def converter_commands(facts: ConverterFacts) -> str:
    """Return the text of `convert.txt`.

    Args:
        facts: of the folder that the text goes to.
    """
    sections = (
        ("1. (b) the QDQ model, QAIRT 2.35 or newer", _qdq(facts)),
        (f"2. (a) float model and encodings, QAIRT {'2.37' if facts.version == '2.0.0' else '2.35'} or newer",
         _overrides(facts)),
        ("3. (a) float model and encodings, older QAIRT (2.21 to about 2.29): two steps", _two_steps(facts)),
        ("4. (a) float model and encodings, qnn-onnx-converter", _qnn(facts)),
        ("5. (a) float model and encodings, snpe-onnx-to-dlc", _snpe(facts)),
    )  # fmt: skip
    lines = [
        *about_files(facts),
        *_titled("The inputs", about_inputs(facts)),
        *_titled("The encodings", about_encodings(facts)),
    ]
    lines += _titled("The chip, needed by sections 1 to 4", _chip(facts))
    for title, body in sections:
        lines += _titled(title, body)
    lines += _titled("Where the options are documented", _pages(lines))
    return "\n".join(lines) + "\n"


def _chip(facts: ConverterFacts) -> list[str]:
    chip = facts.chips[0]
    others = ", ".join(f"{soc.name} {soc.id}" for soc in facts.chips[1:])
    lines = [f"soc_model {chip.id} is {chip.name}, {chip.htp}.{f' Also {chip.htp}: {others}.' if others else ''}"]
    if chip.target != facts.target:
        lines.append(f"The model was made for {facts.target!a}, which names no HTP generation: put your chip here.")
    extension = {"shared_library_path": "libQnnHtpNetRunExtensions.so", "config_file_path": _CHIP}
    return [
        *say(*lines),
        _file({"devices": [{"soc_model": chip.id, "dsp_arch": chip.htp}]}, _CHIP),
        _file({"backend_extensions": extension}, _BACKEND),
    ]


def _qdq(facts: ConverterFacts) -> list[str]:
    convert = _command(
        "qairt-converter", "--input_network", ARTIFACT, "--output_path", "from_qdq.dlc", *_shapes(facts, _SHAPE),
        *_float16(facts),
    )  # fmt: skip
    return [convert, _context("from_qdq")]


def _overrides(facts: ConverterFacts) -> list[str]:
    if against := _odd_widths(facts):
        return against
    convert = _command(
        "qairt-converter", "--input_network", FLOAT, *_grids(facts), "--output_path", "from_float.dlc",
        *_shapes(facts, _SHAPE), *_float16(facts),
    )  # fmt: skip
    return [
        *say("The converter applies the encodings itself: qairt-quantizer is not needed."),
        convert,
        _context("from_float"),
    ]


def _two_steps(facts: ConverterFacts) -> list[str]:
    if against := _odd_widths(facts) or _too_new(facts):
        return against
    if facts.has_fp16:
        return say("Left out: the page of this release names no option for float16. Use section 1 or 2.")
    made = "from_float_unquantized.dlc" if facts.has_grids else "from_float.dlc"
    convert = _command(
        "qairt-converter", "--input_network", FLOAT, *_grids(facts), "--output_path", made,
        *_shapes(facts, "--desired_input_shape"),
    )  # fmt: skip
    quantize = _command("qairt-quantizer", "--input_dlc", made, "--output_dlc", "from_float.dlc", "--float_fallback")
    return [
        *say("The converter was a beta, called the shape otherwise and left quantizing to qairt-quantizer."),
        convert,
        *([quantize] if facts.has_grids else []),
        _context("from_float"),
    ]


def _qnn(facts: ConverterFacts) -> list[str]:
    if against := _odd_widths(facts) or _too_new(facts):
        return against
    if facts.has_fp16:
        return say(
            "Left out: float16 beside integers did not come through this tool on QAIRT 2.33 (qualcomm/aimet, issue "
            "4102). Use section 1 or 2."
        )
    fallback = ("--float_fallback", "--bias_bitwidth", "32") if facts.has_grids else ()
    return [
        _command(
            "qnn-onnx-converter", "--input_network", FLOAT, *_grids(facts), "--output_path", "from_float.cpp",
            *_shapes(facts, "--input_dim"), *fallback,
        ),
        _command(
            "qnn-model-lib-generator", "-c", "from_float.cpp", "-b", "from_float.bin", "-t", "x86_64-linux-clang",
            "-o", "from_float_lib",
        ),
        _context("from_float", library="from_float_lib/x86_64-linux-clang/libfrom_float.so"),
    ]  # fmt: skip


def _snpe(facts: ConverterFacts) -> list[str]:
    if against := _odd_widths(facts) or _too_new(facts):
        return against
    convert = _command(
        "snpe-onnx-to-dlc", "--input_network", FLOAT, *_grids(facts), "--output_path", "snpe_float.dlc",
        *_shapes(facts, "--input_dim"), *_float16(facts),
    )  # fmt: skip
    quantize = _command(
        "snpe-dlc-quant", "--input_dlc", "snpe_float.dlc", "--output_dlc", "snpe_quantized.dlc", "--override_params",
        "--float_fallback", "--bias_bitwidth", "32", *_float16(facts),
    )  # fmt: skip
    prepared = "snpe_quantized.dlc" if facts.has_grids else "snpe_float.dlc"
    prepare = _command(
        "snpe-dlc-graph-prepare", "--input_dlc", prepared, "--output_dlc", "snpe_cached.dlc", "--htp_archs",
        facts.chips[0].htp,
    )  # fmt: skip
    return [convert, *([quantize] if facts.has_grids else []), prepare]


def _odd_widths(facts: ConverterFacts) -> list[str]:
    """Return the reason where the converters do not know a width of the encodings, else nothing."""
    weights, activations = facts.weight_bits - _WEIGHT_BITS, facts.activation_bits - _ACTIVATION_BITS
    if not weights and not activations:
        return []
    found = [f"{bits}-bit weights" for bits in sorted(weights)]
    found += [f"{bits}-bit activations" for bits in sorted(activations)]
    return say(
        f"Left out: {', '.join(found)}. The documentation knows weights of 4, 8 and 16 bits and activations of 8 and "
        f"16; in {ARTIFACT} they lie in the next wider type. Use section 1."
    )


def _too_new(facts: ConverterFacts) -> list[str]:
    if facts.version != "2.0.0":
        return []
    return say(f"Left out: this tool was not made for layout 2.0.0. For it: {OTHER_LAYOUT}")


def _grids(facts: ConverterFacts) -> tuple[str, ...]:
    return ("--quantization_overrides", ENCODINGS) if facts.has_grids else ()


def _float16(facts: ConverterFacts) -> tuple[str, ...]:
    return ("--float_bitwidth", "16") if facts.has_fp16 else ()


def _shapes(facts: ConverterFacts, flag: str) -> list[str]:
    shaped = [one for one in facts.inputs if one.sizes]
    return [word for one in shaped for word in (flag, one.name, ",".join(map(str, one.sizes)))]


def _context(stem: str, library: str | None = None) -> str:
    """Return the command that makes `context/<stem>.bin` from `<stem>.dlc`, or from a model library."""
    model = ("libQnnModelDlc.so", "--dlc_path", f"{stem}.dlc") if library is None else (library,)
    return _command(
        "qnn-context-binary-generator", "--backend", "libQnnHtp.so", "--model", *model, "--config_file", _BACKEND,
        "--output_dir", "context", "--binary_file", stem,
    )  # fmt: skip


def _command(*words: str) -> str:
    return shlex.join(words)


def _file(content: object, name: str) -> str:
    written = _command("printf", "%s\\n", json.dumps(content))
    return f"{written} > {name}"


def _titled(title: str, body: Sequence[str]) -> list[str]:
    return ["", f"# ---- {title}", *body]


def _pages(lines: Sequence[str]) -> list[str]:
    """Say for every tool that `lines` use which page documents which of its options."""
    said: list[str] = []
    used: set[str] = set()
    for tool, flags in FLAGS.items():
        there = [line.split() for line in lines if line.startswith(f"{tool} ")]
        mine = {flag: page for flag, page in flags.items() if any(flag in words for words in there)}
        if mine:
            said.append(f"{tool}: " + ", ".join(f"{flag} [{page}]" for flag, page in mine.items()))
            used |= set(mine.values())
    said.append(f"{_CHIP}, {_BACKEND}: [htp]")
    return say(*said, *(f"[{key}] {title}" for key, title in PAGES.items() if key in used | {"htp"}))
