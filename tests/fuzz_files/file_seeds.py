"""Good files of every kind, small and real: made from the digits example, by the verbs that make them for users."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from borrowed import TESTS, tiny_model
from damage_arrays import stored
from PIL import Image

DIGITS = TESTS.parent / "examples" / "digits"

SETTINGS = """
[model]
path = "digits.onnx"
dim = { batch = 1 }

[data]
calibration = "calib.npz"
samples = 100

[target]
name = "qnn-htp-v73"

[preprocess]
preset = "unit"
mean = [0.5, 0.25]
scale = 0.004

[goal]
max-drop = "1%"

[run]
batch-size = 4

[baseline]
precisions = ["w8a8", "w8a16"]
"""
TARGET = """
description = "a device"
extends = "qnn-htp-v73"
activation_types = ["uint8", "uint16"]
per_channel = ["Conv", "Gemm"]
highest_int16 = 32767

[fused]
Conv = ["Relu", "Clip"]

[fixed_ranges]
Softmax = [0.0, 1.0]

[left_float]
Erf = "it has no kernel"
"""
AIMET = {
    "defaults": {
        "ops": {"is_output_quantized": "True"}, "params": {"is_quantized": "True", "is_symmetric": "True"},
        "strict_symmetric": "False", "per_channel_quantization": "True", "hw_version": "V73",
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {
        "Conv": {"is_output_quantized": "True", "params": {"weight": {"is_quantized": "True"}}},
        "Softmax": {"encoding_constraints": {"min": 0.0, "max": 1.0}},
    },
    "supergroups": [{"op_list": ["Conv", "Relu"]}],
    "model_input": {"is_input_quantized": "True"},
    "model_output": {},
}  # fmt: skip
FRAMES = 2
HUB_FACTS = {"asked": {"device": "phone"}, "files": {"model.qdq.onnx": "0" * 64}, "inputs": {"x": [[1, 8], "float32"]}}


def make_seeds(folder: Path, *, with_torch: bool) -> None:
    """Write one folder for each kind of file into `folder`."""
    for name, make in _MAKERS.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)
    _runs(folder)
    if with_torch:
        for name in ("checkpoint", "weights"):
            (folder / name).mkdir()
        _torch(folder)


def _model(folder: Path) -> None:
    onnx.save(tiny_model(), folder / "model.onnx")
    shutil.copy(DIGITS / "digits.onnx", folder / "digits.onnx")
    (folder / "link.data").symlink_to("/etc/passwd")


def _external(folder: Path) -> None:
    onnx.save(
        tiny_model(), folder / "model.onnx", save_as_external_data=True, location="weights.data", size_threshold=0
    )


def _arrays(folder: Path) -> None:
    with np.load(DIGITS / "calib.npz") as given:
        name, images = next(iter(given.items()))
    (folder / "d.npz").write_bytes(stored(**{name: images[:6], "labels": np.arange(6)}))
    # large enough to be mapped where it lies
    (folder / "large.npz").write_bytes(stored(**{name: np.repeat(images[:1], 6000, 0)}))
    np.save(folder / "d.npy", images[:6])


def _images(folder: Path) -> None:
    rng = np.random.default_rng(3)
    for number, suffix in enumerate(("png", "jpg", "webp", "gif", "bmp", "tif", "ppm")):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        picture.save(folder / f"{number}.{suffix}")
    names = sorted(path.name for path in folder.iterdir())
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))


def _input_list(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for number in range(3):
        rng.random((1, 1, 8, 8), np.float32).tofile(folder / f"{number}.raw")
    (folder / "input_list.txt").write_text("%logits\n" + "".join(f"image:={number}.raw\n" for number in range(3)))


def _write(name: str, text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return make


def _profile(folder: Path) -> None:
    pairs = {"node_Conv_472": "fp16", "node_linear": "w8a16"}
    (folder / "p.json").write_text(json.dumps(pairs))
    (folder / "p.toml").write_text("".join(f'"{name}" = "{value}"\n' for name, value in pairs.items()))


def _store(folder: Path) -> None:
    from fewbits.runtime.store import STORE, Store, key_of

    with Store(folder / STORE) as store:
        for number in range(40):
            store.put(key_of("a", number), {"error": number / 7, "names": ["conv_1", "x" * 200]})


def _hub(folder: Path) -> None:
    from fewbits.deployment.hub import HubDevice, HubJob, HubStatus
    from fewbits.workflow.hub_file import HubFile

    book = HubFile(folder / "hub.json", HUB_FACTS)
    book.put_job("compile", HubJob("j1", "https://x", HubDevice("phone", "14", ("chipset:a",))))
    book.put_status("compile", HubStatus("SUCCESS", True, True))
    profile = {"execution_summary": {"all_inference_times": [5, 6], "estimated_inference_time": 5}}
    layers = [{"name": "conv", "type": "Conv2d", "compute_unit": "NPU"}]
    outputs = {"y": {"device_name": "y", "values": 10, "is_equal": False, "sqnr_db": 50.0}}
    book.put(model_id="m1", profile={**profile, "execution_detail": layers}, outputs=outputs)


def _latency(folder: Path) -> None:
    from sample_auto import write_auto

    from fewbits.workflow.auto_latency import LATENCIES

    write_auto(folder, groups=4)
    (folder / LATENCIES).write_text(json.dumps({"w8a8": {"ms": 1.5, "artifact": "0" * 64}}))


def _records(folder: Path) -> None:
    from sample_auto import write_auto

    write_auto(folder, groups=4)
    (folder / "certificate.json").write_text(json.dumps(_certificate()))
    (folder / "certificate.qnn-htp.json").write_text(json.dumps(_place_certificate()))


def _certificate() -> dict[str, Any]:
    from fewbits.deployment.certificate import Certificate, OutputParity

    return asdict(Certificate(True, 4, {"logits": OutputParity(40, 0, None, 25.0, 12.5)}, {"machine": {"cores": 2}}))


def _place_certificate() -> dict[str, Any]:
    from test_certificates import place_certificate

    from fewbits.reporting.record import plain

    made: dict[str, Any] = plain(asdict(place_certificate()))
    return made


def _frames(folder: Path) -> None:
    from fewbits.artifact.samples import pack_runs

    data = pack_runs({"outputs": [{"logits": np.ones((1, 10), np.float32)}]})
    (folder / "frames").write_bytes(FRAMES * (len(data).to_bytes(8, "big") + data))


def _runs(folder: Path) -> None:
    """Quantize the example: its encodings in all layouts, its samples, its folder and the QDQ file alone."""
    from fewbits.artifact import names
    from fewbits.artifact.encodings_versions import as_version
    from fewbits.workflow.quantize import quantize

    made = folder / "output"
    quantize(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=8, output=made)
    document = json.loads((made / names.ENCODINGS).read_text())
    for version in ("0.6.1", "1.0.0", "2.0.0"):
        place = folder / f"encodings {version}"
        place.mkdir()
        shutil.copy(made / names.FLOAT, place / "model.onnx")
        (place / "e.json").write_text(json.dumps(as_version(document, version)))
    for kind, name in (("samples", names.SAMPLES), ("qdq", names.ARTIFACT)):
        (folder / kind).mkdir()
        shutil.copy(made / name, folder / kind / name)
    (folder / "costs").mkdir()
    rows = [f"{group},{precision},{i + 1}" for i, group in enumerate(cost_groups()) for precision in ("w8a8", "fp16")]
    (folder / "costs" / "c.csv").write_text("\n".join(["group,precision,cost", *rows]) + "\n")


def cost_groups() -> list[str]:
    """Return the groups of the example."""
    return [group.name for group in cost_layout().groups]


def cost_layout() -> Any:
    """Return the example as cost models see it."""
    from fewbits.analysis.cost_layout import Layout
    from fewbits.quantization.groups import find_groups
    from fewbits.quantization.profile import Profile
    from fewbits.quantization.resolve import resolve
    from fewbits.spec.target import load_target
    from fewbits.workflow.source import open_source

    graph, target = open_source(DIGITS / "digits.onnx", dims={"batch": 1}).model, load_target("qnn-htp-v73")
    plans = {name: resolve(graph, Profile.parse(name), target) for name in ("w8a8", "fp16")}
    return Layout(graph, find_groups(graph.graph, target), plans)


def _torch(folder: Path) -> None:
    import torch

    from fewbits.training.torch_checkpoint import Checkpoint

    standing = {"step": 3, "weights": {"w": torch.arange(12.0).reshape(3, 4)}, "names": ["a", ("b", 1.5)]}
    Checkpoint(folder / "checkpoint" / "qat.checkpoint", lambda: "key").write(standing)
    torch.save(torch.nn.Linear(4, 3).state_dict(), folder / "weights" / "w.pt")


_MAKERS: dict[str, Callable[[Path], None]] = {
    "onnx": _model,
    "onnx external": _external,
    "arrays": _arrays,
    "images": _images,
    "input list": _input_list,
    "settings": _write("fewbits.toml", SETTINGS),
    "target": _write("t.toml", TARGET),
    "aimet": _write("a.json", json.dumps(AIMET)),
    "profile": _profile,
    "store": _store,
    "hub": _hub,
    "latency": _latency,
    "records": _records,
    "frames": _frames,
}
