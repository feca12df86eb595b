"""fewbits.toml: what it gives the verbs, who overrides whom, what is refused, and the file that repeats a run."""

import json
import tomllib
from pathlib import Path

import pytest
from command_line import fewbits, ok, refused

from fewbits.artifact import names
from fewbits.cli.settings import check_settings, effective_settings, open_settings
from fewbits.cli.settings_keys import GIVES_WAY, KEYS, SECTIONS, routes
from fewbits.cli.settings_options import verbs
from fewbits.cli.settings_values import WANTED
from fewbits.errors import SpecError
from fewbits.spec.target import DEFAULT_TARGET
from fewbits.spec.toml_text import write_toml

SHOWN = "a whole number, such as 100"


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    """A current folder with a settings file that is enough for every verb that calibrates."""
    monkeypatch.chdir(tmp_path)
    write(
        model={"path": str(tiny.model)},
        data={"calibration": str(tiny.calib), "evaluation": str(tiny.evaluation), "samples": 20},
        run={"output": "out", "threads": 1},
    )
    return tmp_path


def write(path: str = "fewbits.toml", **sections: dict) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(write_toml(sections), encoding="utf-8")
    return Path(path)


def given(verb: str, *arguments: str) -> dict:
    settings = open_settings(None)
    assert settings is not None
    return {name: item.value for name, item in settings.defaults(verb, arguments).items()}


def record(folder: Path) -> dict:
    return json.loads((folder / names.RECORD).read_text(encoding="utf-8"))


# what a file gives


def test_quantize_needs_no_argument_and_says_what_it_used(folder):
    result = ok("quantize")
    assert "top1 on 40 samples" in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("settings")]
    assert line == (
        "settings from fewbits.toml: model.path, data.calibration, data.evaluation, data.samples, run.output, "
        "run.threads"
    )
    assert record(folder / "out")["options"]["samples"] == 20


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_nothing_is_said_where_only_errors_or_json_are_wanted(folder, flag):
    assert ok("quantize", flag).stderr == ""


def test_flags_override_the_verbs_section_and_that_the_shared_ones(folder):
    text = Path("fewbits.toml").read_text(encoding="utf-8")
    Path("fewbits.toml").write_text(text + '[quantize]\nsamples = 16\nprecision = "w8a16"\n', encoding="utf-8")
    ok("quantize", "-q")
    assert record(folder / "out")["options"]["samples"] == 16
    assert record(folder / "out")["options"]["precision"] == "w8a16"
    result = ok("quantize", "--samples", 12, "-o", "other")
    assert record(folder / "other")["options"]["samples"] == 12
    assert "quantize.samples" not in result.stderr
    assert "quantize.precision" in result.stderr


def test_values_become_what_options_take(folder):
    write(
        model={"dim": {"N": 4}, "simplify": False},
        preprocess={"mean": [0.485, 0.456, 1], "resize": 256, "crop": [224, 200], "scale": 1, "channel-order": "bgr"},
        metric={"name": "top1", "higher-is-better": True},
        goal={"max-drop": 0.5, "min-sqnr": 18},
        amp={"candidates": ["w8a8", "fp16"], "keep": ["fp16:head/*", "w8a16:a"], "time": "10m", "dim": {"N": 2}},
    )
    found = given("amp")
    assert found == {
        "dim": ["N=2"], "simplify": False, "mean": "0.485,0.456,1", "resize": "256", "crop": "224,200", "scale": 1,
        "channel_order": "bgr", "metric": "top1", "higher_is_better": True, "max_drop": "0.5", "min_sqnr": 18,
        "candidates": "w8a8,fp16", "keep": ["fp16:head/*", "w8a16:a"], "time": "10m",
    }  # fmt: skip


def test_flags_lists_and_switches_reach_the_verb(folder, tiny):
    write(
        model={"path": str(tiny.model), "dim": {"N": 4}, "simplify": False},
        data={"calibration": str(tiny.calib)},
        metric={"name": "sqnr"},
        goal={"min-sqnr": 3.5},
        run={"output": "out"},
        litemp={"all": True, "percent": [10, 20], "ranking": "brute-force", "rank-samples": 4},
    )
    document = json.loads(ok("litemp", "--json").stdout)
    options = record(folder / "out")["options"]
    assert options["percents"] == [10, 20]
    assert options["score_all"] is True
    assert options["simplify"] is False
    assert options["dims"] == {"N": 4}
    assert "3.5 dB" in json.dumps(document)


def test_a_switch_that_is_false_is_overridden_by_its_flag(folder):
    write(model={"path": "m.onnx", "simplify": False})
    assert given("inspect")["simplify"] is False
    assert "model.simplify" not in fewbits("inspect", "--simplify").stderr


def test_evaluate_takes_the_evaluation_data_and_their_count(folder):
    write(data={"calibration": "c", "evaluation": "e", "samples": 1, "eval-samples": 2})
    assert given("evaluate") == {"data": "e", "samples": 2}
    write(data={"calibration": "c"})
    assert given("evaluate") == {"data": "c"}


def test_what_comes_after_a_run_reads_its_folder(folder):
    ok("quantize", "-q")
    assert "settings from fewbits.toml: run.output" in ok("verify").stderr
    write(model={"path": "m"}, run={"output": "out"}, target={"name": "ort-cpu"})
    assert given("lint") == {"model": "out", "target": "ort-cpu"}
    assert given("export") == {"run": "out"}
    assert given("compile") == {"model": "out"}
    assert given("submit") == {"run": "out"}


def test_a_key_is_left_out_where_the_option_means_something_else(folder):
    write(data={"calibration": "c", "samples": 9}, goal={"min-sqnr": 7}, metric={"name": "top1"}, run={"output": "o"})
    assert given("convert") == {}
    assert given("import") == {"output": "o"}
    assert given("verify") == {"output": "o"}
    assert given("prepare") == {"data": "c"}
    assert given("targets") == {}


@pytest.mark.parametrize(
    ("flag", "section", "kept"),
    [
        ("--metric", {"metric": {"name": "m.py:f", "higher-is-better": False}}, {"metric": "m.py:f"}),
        ("--preset", {"preprocess": {"preset": "unit", "crop": 3}}, {"preset": "unit"}),
        ("--min-sqnr=3", {"goal": {"max-drop": 1, "min-sqnr": 2}}, {"min_sqnr": 2}),
    ],
)
def test_a_flag_replaces_the_keys_that_belong_to_the_same_choice(folder, flag, section, kept):
    write(**section)
    assert given("baseline", flag) == kept
    assert len(given("baseline")) == 2


def test_a_key_of_the_verb_replaces_what_its_flag_does(folder):
    write(goal={"max-drop": 1}, baseline={"min-sqnr": 3})
    assert given("baseline") == {"min_sqnr": 3}
    assert given("litemp") == {"max_drop": "1"}


def test_a_chip_replaces_the_target_of_lint_and_of_no_other_verb(folder):
    """`lint` takes the rules of the chip; `auto` compiles for it what it made by the rules of the target."""
    write(run={"output": "out"}, target={"name": "qnn-htp-v75"})
    assert given("lint", "--soc", "sm8650") == {"model": "out"}
    assert given("auto", "--soc", "sm8650") == {"output": "out", "target": "qnn-htp-v75"}


def test_relative_paths_start_at_the_file(folder):
    write(
        "sub/s.toml",
        model={"path": "m.onnx"},
        data={"calibration": "load.py:calib", "evaluation": "/abs"},
        metric={"name": "score.py:f"},
        target={"name": "aimet:t.json"},
        run={"output": "../out"},
        quantize={"profile": "p.toml", "encodings": "~/e.json"},
    )
    found = open_settings(Path("sub/s.toml")).defaults("quantize", ())
    assert {name: Path(item.value).as_posix() for name, item in found.items()} == {
        "model": "sub/m.onnx", "data": "sub/load.py:calib", "eval_data": "/abs", "metric": "sub/score.py:f",
        "target": "aimet:sub/t.json", "output": "sub/../out", "profile": "sub/p.toml", "encodings": "~/e.json",
    }  # fmt: skip
    write("sub/s.toml", metric={"name": "top1"}, target={"name": "ort-cpu"}, amp={"cost": "c.csv", "ranges": "mse"})
    found = open_settings(Path("sub/s.toml")).defaults("amp", ())
    assert [Path(item.value).as_posix() for item in found.values()] == ["top1", "ort-cpu", "sub/c.csv", "mse"]


def test_config_names_the_file_and_no_config_ignores_it(folder, tiny):
    Path("fewbits.toml").rename("other.toml")
    assert "Missing argument" in refused("quantize")
    assert "settings from other.toml" in ok("--config", "other.toml", "quantize").stderr
    Path("other.toml").rename("fewbits.toml")
    assert "Missing argument" in refused("--no-config", "quantize")
    assert "leave one of them out" in refused("--no-config", "--config", "fewbits.toml", "quantize")
    assert "No such file" in refused("--config", "nothing.toml", "inspect", tiny.model)


def test_help_is_shown_whatever_the_file_holds(folder):
    Path("fewbits.toml").write_text("= broken", encoding="utf-8")
    assert ok("quantize", "--help").stdout
    assert ok("--help").stdout
    assert "no TOML" in refused("targets")
    assert ok("--no-config", "targets").stdout


# the table of keys


def test_every_key_fills_an_option_of_some_verb():
    filled = {where for verb, options in verbs().items() for where in routes(verb, options)}
    assert {key.where for key in KEYS} == filled


def test_every_example_is_a_value_that_is_taken():
    for key in KEYS:
        assert key.kind in WANTED
        taken = check_settings(tomllib.loads(f"[{key.section}]\n{key.name} = {key.example}"), Path("fewbits.toml"))
        assert taken[key.section][key.name] is not None
    assert SECTIONS["target"]["name"].example == f'"{DEFAULT_TARGET}"'


def test_every_flag_that_replaces_keys_is_an_option_and_names_keys_that_are_there():
    assert {where for keys in GIVES_WAY.values() for where in keys} <= {key.where for key in KEYS}
    for flag in GIVES_WAY:
        verb, _, name = flag.rpartition("--")
        assert any(name in options for known, options in verbs().items() if verb.strip() in ("", known)), flag


# the file that repeats a run


@pytest.mark.parametrize("verb", ["quantize", "amp", "evaluate", "prepare", "verify", "convert", "qat", "auto"])
def test_effective_settings_give_every_option_back(folder, verb):
    values = {"texts": ["a", 'b "\\\n\x01'], "sizes": ["N=4", "a b=2"], "whole": 3, "number": 0.1, "flag": False}
    options = verbs()[verb].values()
    wanted = {option.parameter: values.get(option.kind, f"/{option.parameter}") for option in options}
    Path("run.toml").write_text(effective_settings(verb, wanted), encoding="utf-8")
    found = open_settings(Path("run.toml")).defaults(verb, ())
    kept = {name: value for name, value in wanted.items() if name not in ("json", "quiet")}
    assert {name: item.value for name, item in found.items()} == kept


def test_effective_settings_repeat_a_run_from_anywhere(folder, monkeypatch):
    ok("quantize", "--precision", "w8a16", "--samples", 12, "-q")
    first = record(folder / "out")
    text = effective_settings(
        "quantize",
        {"model": "m.onnx", "precision": "w8a16", "samples": 12, "output": Path("out"), "dim": [], "metric": None},
    )
    assert text.startswith("# repeats this run: fewbits --config THIS_FILE quantize\n")
    assert tomllib.loads(text) == {
        "model": {"path": str(folder / "m.onnx")},
        "data": {"samples": 12},
        "run": {"output": str(folder / "out")},
        "quantize": {"precision": "w8a16"},
    }
    options = {name: item.value for name, item in open_settings(None).defaults("quantize", ()).items()}
    text = effective_settings("quantize", {**options, "precision": "w8a16", "samples": 12, "output": "again"})
    Path("out/fewbits.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir("/")
    ok("--config", folder / "out" / "fewbits.toml", "quantize", "-q")
    again = record(folder / "again")
    assert again["scores"] == first["scores"]
    assert again["files"][names.ARTIFACT] == first["files"][names.ARTIFACT]


def test_effective_settings_of_an_option_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match="--dim 'N' is not NAME=SIZE"):
        effective_settings("quantize", {"dim": ["N"]})


# what is refused

BAD = {
    "[data]\ncalibraton = 'x'": "fewbits.toml: [data] has no key 'calibraton'; did you mean 'calibration'?",
    "[dta]\nx = 1": "there is no section [dta]; did you mean 'data'?",
    "[init]": "there is no section [init]",
    "[data]\nmax-drop = 1": "[data] has no key 'max-drop': it belongs in [goal].",
    "[amp]\nzzz = 1": "[amp] has no key 'zzz': its keys are the options of `fewbits amp --help`.",
    "path = 'm.onnx'": "'path' stands outside of the sections: write it below [model].",
    "metric = 'top1'": "write [metric], and its keys below it.",
    "[[data]]\n": "[[data]] is a list of sections",
    "[data]\nsamples = '4'": f"[data] samples must be {SHOWN}, not '4'.",
    "[data]\nsamples = true": f"[data] samples must be {SHOWN}, not true.",
    "[data]\nsamples = 1.5": f"[data] samples must be {SHOWN}, not 1.5.",
    "[data]\nsamples = 0x" + "f" * 5000: f"[data] samples must be {SHOWN}, not a number of more than 64 bits.",
    "[data]\nsamples = " + "9" * 5000: "a number in it has thousands of digits",
    "[data]\nsamples = 0": "[data] samples cannot be used:",
    "[model]\nsimplify = 1": "[model] simplify must be true or false, not 1.",
    "[model]\ndim = ['N=1']": "[model] dim must be a table of whole numbers",
    "[model]\npath = ''": "[model] path must be a path in quotes",
    '[model]\npath = "a\\u0000b"': "[model] path must be a path in quotes",
    "[preprocess]\nmean = [1, 'a']": "[preprocess] mean must be a number or a list of numbers",
    "[preprocess]\nmean = []": "[preprocess] mean must be a number or a list of numbers",
    "[goal.max-drop]\na = 1": '[goal] max-drop must be a number, or a text such as "1%", not a table.',
    "[data]\nx = = 1": "fewbits.toml, line 2: this is no TOML: Invalid value.",
    "[data]\n[data]": "fewbits.toml, line 2: this is no TOML: Cannot declare",
    "a = " + "[" * 100_000: "nested too deeply",
    "a = " + "{a=" * 50_000: "nested too deeply",
    "[" + "a." * 100_000 + "a]": "a line has more than 500 dots",
    "[" + "a" * 1_000_000 + "]": "larger than 1 MB",
    "[" + "a" * 10_000 + "]": f"there is no section [{'a' * 57}...]: its sections are model, data,",
    '["\\u001b[31m"]': r"there is no section ['\x1b[31m']",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=[text[:20] for text in BAD])
def test_a_bad_file_is_one_sentence(folder, text, words):
    Path("fewbits.toml").write_text(text, encoding="utf-8")
    line = refused("quantize", "m.onnx", "--data", "c.npz", "-o", "out")
    assert words in line
    assert len(line) < 400


@pytest.mark.parametrize("data", [bytes(range(256)), b"[data]\n# \xe9\n"])
def test_a_file_that_is_no_text_is_one_sentence(folder, data):
    Path("fewbits.toml").write_bytes(data)
    assert "line 2: it is no UTF-8 text" in refused("inspect", "m.onnx")


def test_a_folder_or_a_broken_link_of_that_name_is_an_error(folder):
    Path("fewbits.toml").unlink()
    Path("fewbits.toml").mkdir()
    assert "Cannot read the settings file 'fewbits.toml': Is a directory." in refused("targets")
    Path("fewbits.toml").rmdir()
    Path("fewbits.toml").symlink_to("nothing")
    assert "No such file" in refused("targets")


def test_a_file_as_windows_writes_it_is_read(folder):
    Path("fewbits.toml").write_bytes(b"\xef\xbb\xbf[model]\r\npath = 'm.onnx'\r\n")
    assert given("inspect") == {"model": "m.onnx"}


def test_the_sections_of_other_verbs_are_checked_too(folder):
    write(qat={"setps": 3})
    with pytest.raises(SpecError, match=r"\[qat\] has no key 'setps'; did you mean 'steps'"):
        open_settings(None)
