"""The options of Qualcomm's tools that `convert.txt` uses, each with the public page that documents it: data only."""

from collections.abc import Mapping

PAGES: Mapping[str, str] = {
    "tools": '"Tools", Qualcomm Neural Processing SDK, 80-63442-2 Rev BL, June 2025 (QAIRT 2.35); '
    "docs.qualcomm.com/doc/80-63442-10/topic/SNPE_general_tools.html",
    "converter": '"Qairt Converter", 80-63442-2 Rev BL (QAIRT 2.35) and the documentation of QAIRT 2.39; '
    "docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/qairt_converter.md",
    "converter-2.29": '"Qairt Converter", documentation of QAIRT 2.29, where the tool is a beta',
    "quantizer": '"Qairt Quantizer", 80-63442-2 Rev BL (QAIRT 2.35); '
    "docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/qairt_quantizer.md",
    "htp": '"HTP", section "QNN HTP Backend Extensions", 80-63442-10 Rev AL, July 2026; '
    "docs.qualcomm.com/doc/80-63442-10/topic/htp_backend.html",
    "caching": '"Offline Graph Caching for DSP Runtime on HTP", 80-63442-2 Rev BL',
    "aimet": '"On-target inference", user guide of AIMET; quic.github.io/aimet-pages',
    "aimet-2444": "issue 2444 of qualcomm/aimet, which quotes the page of qnn-onnx-converter",
    "aimet-3902": "discussion 3902 of qualcomm/aimet, answer of a maintainer",
    "onnx2bin": '"Convert ONNX model to QNN(*.bin) format", tools/convert/onnx2bin of quic/ai-engine-direct-helper '
    "(QAIRT 2.37)",
    "dlc2bin": '"Convert DLC model to QNN(*.bin) format", tools/convert/dlc2bin of quic/ai-engine-direct-helper '
    "(QAIRT 2.36)",
}
"""Page -> title, document and release that were read."""

FLAGS: Mapping[str, Mapping[str, str]] = {
    "qairt-converter": {
        "--input_network": "converter",
        "--quantization_overrides": "converter",
        "--output_path": "tools",
        "--source_model_input_shape": "tools",
        "--desired_input_shape": "converter-2.29",
        "--float_bitwidth": "converter",
    },
    "qairt-quantizer": {
        "--input_dlc": "quantizer",
        "--output_dlc": "quantizer",
        "--float_fallback": "aimet",
    },
    "qnn-context-binary-generator": {
        "--backend": "aimet",
        "--model": "aimet",
        "--dlc_path": "aimet",
        "--output_dir": "aimet",
        "--binary_file": "aimet",
        "--config_file": "dlc2bin",
    },
    "qnn-onnx-converter": {
        "--input_network": "onnx2bin",
        "--input_dim": "onnx2bin",
        "--output_path": "onnx2bin",
        "--quantization_overrides": "aimet-2444",
        "--float_fallback": "aimet-3902",
        "--bias_bitwidth": "aimet-3902",
    },
    "qnn-model-lib-generator": {"-c": "onnx2bin", "-b": "onnx2bin", "-t": "onnx2bin", "-o": "onnx2bin"},
    "snpe-onnx-to-dlc": {
        "--input_network": "tools",
        "--input_dim": "tools",
        "--output_path": "tools",
        "--quantization_overrides": "tools",
        "--float_bitwidth": "tools",
    },
    "snpe-dlc-quant": {
        "--input_dlc": "tools",
        "--output_dlc": "tools",
        "--override_params": "tools",
        "--float_fallback": "tools",
        "--float_bitwidth": "tools",
        "--bias_bitwidth": "tools",
    },
    "snpe-dlc-graph-prepare": {"--input_dlc": "caching", "--output_dlc": "caching", "--htp_archs": "tools"},
}
"""Tool -> option -> key in `PAGES`."""

CONFIG_KEYS: Mapping[str, str] = dict.fromkeys(
    ("backend_extensions", "shared_library_path", "config_file_path", "devices", "soc_model", "dsp_arch"), "htp"
)
"""Key of the two files that name the chip -> key in `PAGES`."""
