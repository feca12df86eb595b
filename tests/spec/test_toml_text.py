import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewbits.errors import SpecError
from fewbits.spec.toml_text import read_toml, toml_value, write_toml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a loaded machine: drawing texts takes longest
@given(st.dictionaries(TEXTS, st.dictionaries(TEXTS, VALUES, min_size=1)))
def test_what_is_written_is_read_back(sections):
    read = tomllib.loads(write_toml(sections))
    assert read == sections
    assert repr(read) == repr(sections)  # True is not 1, and 1.0 is not 1


def test_sections_without_keys_are_left_out():
    assert write_toml({"a": {}, "b": {"c": 1}}) == "[b]\nc = 1\n"


def test_a_long_list_has_a_line_for_each_item():
    names = [f"fp16:blocks.{index}.attention.softmax" for index in range(600)]
    text = write_toml({"amp": {"keep": names}})
    assert max(map(len, text.splitlines())) < 100
    assert tomllib.loads(text) == {"amp": {"keep": names}}


def test_what_toml_cannot_hold_is_refused():
    with pytest.raises(SpecError, match="no UTF-8 text"):
        toml_value("caf\udce9")
    with pytest.raises(TypeError, match="NoneType"):
        toml_value(None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = 1\nb = \n", r"s\.toml, line 2: this is no TOML: Invalid value\."),
        (b"[a", r"s\.toml: this is no TOML: .* \(at end of document\)\."),
        (b"# 1\n# 2\n\xff", r"s\.toml, line 3: it is no UTF-8 text"),
        (b"#" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, content, words):
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(SpecError, match=words):
        read_toml(tmp_path / "s.toml")
