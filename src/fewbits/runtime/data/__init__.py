"""Data that the user brings, as batches that the model's inputs accept.

In: a path, `file.py:function`, arrays, or anything that can be iterated twice. Out: a `Dataset`.
Reading order: types (the contract), open (which source is it), fit (does it suit the model), stream (cut into batches).
"""

from fewbits.runtime.data.open import open_data
from fewbits.runtime.data.preprocess import PRESETS, Preprocess, parse_preset
from fewbits.runtime.data.types import Batch, Dataset, InputInfo

__all__ = ["PRESETS", "Batch", "Dataset", "InputInfo", "Preprocess", "open_data", "parse_preset"]
