"""An output folder whose float companion was improved: its weights are rounded and pinned, the float model is kept."""

import json
import shutil

import onnx

from fewbits.artifact import names
from fewbits.artifact.encodings_read import read_encodings
from fewbits.artifact.folder import file_facts
from fewbits.graph.load import load_model
from fewbits.numerics.affine import fake_quantize


def improve(folder, output):
    """Write the run in `folder` to `output` with its weights rounded to their grids; return `output`."""
    shutil.copytree(folder, output)
    shutil.copyfile(folder / names.FLOAT, output / names.REFERENCE)
    graph = load_model(folder / names.FLOAT).graph
    encodings = read_encodings(folder / names.ENCODINGS, graph)
    weights = [n for n in encodings if n in graph.initializers and len(graph.initializers[n].const_value.shape) > 1]
    model = onnx.load(folder / names.FLOAT)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            rounded = fake_quantize(onnx.numpy_helper.to_array(tensor), encodings[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, output / names.FLOAT)
    record = json.loads((folder / names.RECORD).read_text())
    record |= {"pinned": weights, "files": file_facts(output)}
    (output / names.RECORD).write_text(json.dumps(record))
    return output
