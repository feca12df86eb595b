import functools

import numpy as np

from fewbits.graph.load import load_model
from fewbits.graph.save import save_model
from fewbits.runtime.session import RunOptions
from fewbits.workflow import sessions


def test_open_graph_passes_large_models_through_a_file(tiny, monkeypatch):
    graph, feeds = load_model(tiny.model), {"image": np.load(tiny.calib)["image"]}
    wanted = sessions.open_graph(graph, RunOptions())(feeds)["logits"]
    monkeypatch.setattr(sessions, "EXTERNAL_BYTES", 0)
    monkeypatch.setattr(sessions, "save_model", functools.partial(save_model, external_bytes=0))
    monkeypatch.setattr(sessions, "to_bytes", None)
    np.testing.assert_array_equal(sessions.open_graph(graph, RunOptions())(feeds)["logits"], wanted)


def test_with_outputs_adds_each_tensor_once(tiny):
    graph = load_model(tiny.model)
    more = sessions.with_outputs(graph, ("r", "logits", "image"))
    assert [value.name for value in more.graph.outputs] == ["logits", "r"]
    assert [value.name for value in graph.graph.outputs] == ["logits"]
