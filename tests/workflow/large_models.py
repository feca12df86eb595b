"""Networks of any size, written a weight at a time, and the memory of the processes that work on them."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

DATA_SUFFIX = ".data"
_INLINE_BYTES = 1024


class _Writer:
    """Collects the nodes of a graph and writes its weights to a file as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.file = path.with_name(path.name + DATA_SUFFIX).open("wb")

    def weight(self, name: str, array: npt.NDArray[np.generic]) -> str:
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        if array.nbytes <= _INLINE_BYTES:
            tensor.raw_data = array.tobytes()
        else:
            self.file.seek(-(-self.file.tell() // 4096) * 4096)
            facts = {"location": Path(self.file.name).name, "offset": self.file.tell(), "length": array.nbytes}
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in facts.items())
            self.file.write(np.ascontiguousarray(array).data)
        self.weights.append(tensor)
        return name

    def normal(self, name: str, *shape: int, scale: float) -> str:
        return self.weight(name, self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def node(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        product = self.node("MatMul", [x, self.normal(f"{name}.w", rows, columns, scale=rows**-0.5)], name)
        return self.node("Add", [product, self.normal(f"{name}.b", columns, scale=0.01)], f"{name}_bias")

    def norm(self, x: str, name: str, width: int) -> str:
        gain = self.weight(f"{name}.gain", 1 + 0.1 * self.rng.standard_normal(width, np.float32))
        shift = self.weight(f"{name}.shift", np.zeros(width, np.float32))
        return self.node("LayerNormalization", [x, gain, shift], name, axis=-1)

    def save(self, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> None:
        self.file.close()
        graph = helper.make_graph(self.nodes, "large", inputs, [output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        self.path.write_bytes(model.SerializeToString())


def write_mlp(path: Path, weight_bytes: int, width: int = 4096) -> dict[str, npt.NDArray[np.generic]]:
    """Write residual layers of `width` that hold about `weight_bytes`, and return 16 samples."""
    writer = _Writer(path)
    x = "image"
    for i in range(max(weight_bytes // (4 * width * width), 1)):
        inner = writer.node("Relu", [writer.linear(x, f"layer{i}", width, width)], f"relu{i}")
        x = writer.norm(writer.node("Add", [x, inner], f"add{i}"), f"norm{i}", width)
    logits = writer.linear(x, "head", width, 10)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", width])
    writer.save([image], helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", 10]))
    return {"image": np.random.default_rng(1).standard_normal((16, width), np.float32)}


def write_transformer(
    path: Path, weight_bytes: int, width: int = 2048, words: int = 16_000
) -> dict[str, npt.NDArray[np.generic]]:
    """Write an encoder of `width` that holds about `weight_bytes`, its table of words included; return 16 samples."""
    writer, heads, length = _Writer(path), 16, 16
    writer.weight("split", np.array([0, 0, heads, -1], np.int64))
    writer.weight("join", np.array([0, 0, width], np.int64))
    x = writer.node("Gather", [writer.normal("words", words, width, scale=0.5), "tokens"], "embedding")
    for i in range(max((weight_bytes - 4 * words * width) // (48 * width * width), 1)):
        x = _block(writer, x, i, width, heads)
    logits = writer.linear(writer.norm(x, "last", width), "head", width, 10)
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", length])
    writer.save([tokens], helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", length, 10]))
    return {"tokens": np.random.default_rng(1).integers(0, words, (16, length))}


def _block(writer: _Writer, x: str, i: int, width: int, heads: int) -> str:
    normed = writer.norm(x, f"norm{i}a", width)
    parts = []
    for kind, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        flat = writer.linear(normed, f"{kind}{i}", width, width)
        shaped = writer.node("Reshape", [flat, "split"], f"{kind}{i}_split")
        parts.append(writer.node("Transpose", [shaped], f"{kind}{i}_heads", perm=perm))
    scores = writer.node("MatMul", parts[:2], f"scores{i}")
    scale = writer.weight(f"scale{i}", np.float32((width // heads) ** -0.5).reshape(()))
    shares = writer.node("Softmax", [writer.node("Mul", [scores, scale], f"scaled{i}")], f"shares{i}", axis=-1)
    mixed = writer.node("MatMul", [shares, parts[2]], f"mix{i}")
    rows = writer.node("Transpose", [mixed], f"mix{i}_rows", perm=[0, 2, 1, 3])
    joined = writer.node("Reshape", [rows, "join"], f"join{i}")
    x = writer.node("Add", [x, writer.linear(joined, f"o{i}", width, width)], f"attended{i}")
    inner = writer.linear(writer.norm(x, f"norm{i}b", width), f"up{i}", width, 4 * width)
    inner = writer.node("Gelu", [inner], f"gelu{i}")
    return writer.node("Add", [x, writer.linear(inner, f"down{i}", 4 * width, width)], f"fed{i}")


Make = Callable[[Path, int], dict[str, npt.NDArray[np.generic]]]
KINDS: dict[str, Make] = {"mlp": write_mlp, "transformer": write_transformer}


@dataclass(frozen=True)
class Watched:
    """What a command took, all of its processes together.

    Attributes:
        anonymous_bytes: peak of what the system cannot take back.
        resident_bytes: peak of that and of mapped files, each page counted once (the system's Pss).
        seconds: wall time.
        output: stdout and stderr.
        exit_code: of the command.
    """

    anonymous_bytes: int
    resident_bytes: int
    seconds: float
    output: str
    exit_code: int


def watched(command: Sequence[str], every_s: float = 0.02) -> Watched:
    """Run a command and look at its memory every few milliseconds (Linux)."""
    begin = time.perf_counter()
    anonymous = resident = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            sizes = [_memory(pid) for pid in _family(process.pid)]
            anonymous = max(anonymous, sum(size[0] for size in sizes))
            resident = max(resident, sum(sum(size) for size in sizes))
            time.sleep(every_s)
        said.seek(0)
        return Watched(anonymous, resident, time.perf_counter() - begin, said.read(), process.returncode)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def _memory(pid: int) -> tuple[int, int]:
    """Return the anonymous and the mapped bytes of a process; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Pss")}
    return sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0), sizes.get("Pss_File", 0)
