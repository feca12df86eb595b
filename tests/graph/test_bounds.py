from onnx import parser

from fewbits.graph import bounds
from fewbits.graph.load import load_model


def loaded(op: str, opset: int):
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[2] x) => (float[2] y) {{ y = {op} (x) }}'
    return load_model(parser.parse_model(text))


def test_what_operators_demand_is_remembered_once_for_each_version_of_an_operator():
    bounds._known.cache_clear()
    for opset in (14, 15, 16, 17):
        loaded("Relu", opset)
    for number in range(5):
        loaded(f"Unknown{number}", 17)
    assert bounds._known.cache_info().currsize == 1
