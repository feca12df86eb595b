"""What other folders of tests made: the tiny network, sample records, certificates. Imported before those."""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS / "reporting"))

# by its path: several folders have a conftest
_spec = importlib.util.spec_from_file_location("tiny_network", TESTS / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["tiny_network"] = _module
_spec.loader.exec_module(_module)
tiny_model = _module.tiny_model
"""A function that returns a network of nine nodes."""


def record_of_a_baseline() -> str:
    """Return the record of a baseline, as JSON."""
    from sample_records import baseline_record

    return str(baseline_record().to_json())
