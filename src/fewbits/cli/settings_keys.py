"""The keys of a settings file: which sections there are, what each key may hold, and which option of a verb it fills.

A key fills the option of its own name, but for the verbs in `_OTHER`, where that option means something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Key:
    """One key that verbs share.

    Attributes:
        section: where it stands.
        name: what it is called there.
        option: the option that it fills, by its name on the command line; `model` is the argument.
        kind: what it may hold; see `settings_values.WANTED`.
        help: what it does, a line for people.
        example: a value as TOML, the default where there is one.
    """

    section: str
    name: str
    option: str
    kind: str
    help: str
    example: str

    @property
    def where(self) -> str:
        """Section and name, as in `data.calibration`."""
        return f"{self.section}.{self.name}"


KEYS = (
    Key("model", "path", "model", "path", "An .onnx file, or the output folder of an earlier run.", '"model.onnx"'),
    Key("model", "dim", "dim", "sizes", "Sizes of open dimensions; default: left open.", "{ batch = 1 }"),
    Key("model", "simplify", "simplify", "flag", "Let onnxslim rewrite the graph; default true.", "true"),
    Key("data", "calibration", "data", "path",
        "Image folder, .npz, .npy, folder of them, input list (.txt) or file.py:function.", '"calib.npz"'),
    Key("data", "evaluation", "eval-data", "path", "What to score on; default: the calibration data.", '"eval.npz"'),
    Key("data", "samples", "samples", "whole", "Calibration samples at most; default 400.", "400"),
    Key("data", "eval-samples", "eval-samples", "whole", "Evaluation samples at most; default: all.", "1000"),
    Key("preprocess", "preset", "preset", "text", "For images: imagenet, imagenet-tf, unit or raw.", '"imagenet"'),
    Key("preprocess", "resize", "resize", "numbers", "Shorter side, or [height, width].", "256"),
    Key("preprocess", "crop", "crop", "numbers", "Side of the centre crop, or [height, width].", "224"),
    Key("preprocess", "mean", "mean", "numbers", "Subtracted per channel.", "[0.485, 0.456, 0.406]"),
    Key("preprocess", "std", "std", "numbers", "Divisor per channel.", "[0.229, 0.224, 0.225]"),
    Key("preprocess", "scale", "scale", "number", "Factor of the pixels 0..255; default 1/255.", "0.00392156862745098"),
    Key("preprocess", "channel-order", "channel-order", "text", "rgb or bgr; default rgb.", '"rgb"'),
    Key("preprocess", "layout", "layout", "text", "nchw or nhwc; default: read off the model.", '"nchw"'),
    Key("metric", "name", "metric", "name",
        "top1, top5, miou, psnr, mse, perplexity, sqnr, agreement or file.py:function; default: by labels and outputs.",
        '"top1"'),
    Key("metric", "higher-is-better", "higher-is-better", "flag", "Direction of a metric of your own.", "true"),
    Key("target", "name", "target", "name",
        "Device: a name from `fewbits targets`, FILE.toml or aimet:FILE.json.", '"qnn-htp-v73"'),
    Key("goal", "max-drop", "max-drop", "amount",
        'Acceptable drop: in the metric\'s unit (0.5), or of the float score ("1%"); default "1%".', '"1%"'),
    Key("goal", "min-sqnr", "min-sqnr", "number", "Acceptable SQNR in dB where that is the metric; default 20.", "20"),
    Key("goal", "max-latency", "max-latency", "amount", "Acceptable latency, 2ms or 800us; default: any.", '"2ms"'),
    Key("goal", "goal", "goal", "text",
        "What to look for: enough, fastest, smallest or most-accurate; default enough.", '"enough"'),
    Key("goal", "time", "time", "amount", "Time for the search, 90s, 10m or 1h; default: no limit.", '"30m"'),
    Key("run", "output", "output", "path", "Folder for the files; verify, export and compile read it.", '"out"'),
    Key("run", "provider", "provider", "text", "onnxruntime's provider: cpu, cuda ...; default cpu.", '"cpu"'),
    Key("run", "threads", "threads", "whole", "0, the default, lets onnxruntime choose.", "0"),
    Key("run", "workers", "workers", "whole", "Processes of this machine; default 1.", "1"),
    Key("run", "batch-size", "batch-size", "whole", "Samples per call; default: chosen by fewbits.", "16"),
)  # fmt: skip
SECTIONS: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {section: {key.name: key for key in KEYS if key.section == section} for section in dict.fromkeys(
        key.section for key in KEYS)}
)  # fmt: skip

_NO_DATA = {"data.calibration": None, "data.evaluation": None, "data.samples": None, "data.eval-samples": None}
_NO_METRIC = {"metric.name": None, "metric.higher-is-better": None}
_READS_RUN = {"model.path": None, "run.output": "model"}
_OTHER: Mapping[str, Mapping[str, str | None]] = MappingProxyType(
    {
        "convert": {**_NO_DATA, "run.output": None, "goal.min-sqnr": None},
        "prepare": {"data.samples": None, "run.output": None},
        "evaluate": {"data.evaluation": "data", "data.samples": None, "data.eval-samples": "samples"},
        "export": {"run.output": "run"},
        "latency": {"run.output": "run"},
        "verify": {**_NO_DATA, **_NO_METRIC},
        "lint": _READS_RUN,
        "compile": _READS_RUN,
        "estimate": _READS_RUN,
        "submit": {"run.output": "run"},
        "import": {**_NO_DATA, "model.path": None},
        "report": {"run.output": "run"},
    }
)
"""Verb -> key -> the option that it fills there, or None.

convert and import are about other models, verify has samples of its own, prepare writes a file and not a folder, and
what comes after a run reads the run's folder.
"""

IMAGE_STEPS = tuple(name for name in SECTIONS["preprocess"] if name != "preset")
"""Keys that say in detail what a preset says in one word."""
GIVES_WAY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "--metric": ("metric.higher-is-better",),
        "--min-sqnr": ("goal.max-drop",),
        "--max-drop": ("goal.min-sqnr",),
        "--preset": tuple(f"preprocess.{name}" for name in IMAGE_STEPS),
        "lint --soc": ("target.name",),  # elsewhere the chip is one of the target, which stays
    }
)
"""Flag, of any verb or of the one before it -> shared keys that it replaces although they are other options: each pair
is one choice. A key in the section of the verb does what the flag does."""


def routes(verb: str, options: Mapping[str, object]) -> dict[str, str]:
    """Return which option of a verb each shared key fills; where two fill one, the later has the last word.

    Args:
        verb: its name on the command line.
        options: the verb's options, by their names on the command line.

    Returns:
        `data.calibration` -> `data`, in the order of the file.
    """
    other = _OTHER.get(verb, {})
    found = {key.where: other.get(key.where, key.option) for key in KEYS}
    return {where: option for where, option in found.items() if option is not None and option in options}
