"""The questions of `fewbits init`: each is asked until its answer can be used, or answered by an option."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import typer

from fewbits.cli.options import parse_dims, parse_preprocess
from fewbits.cli.settings_keys import IMAGE_STEPS
from fewbits.cli.settings_values import split_function
from fewbits.errors import FewbitsError, SpecError
from fewbits.spec.target import DEFAULT_TARGET, load_target

_OWN, _NONE = "own", "none"
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Interview:
    """What is known of the run, question by question.

    Attributes:
        given: option -> what the command line says; None or nothing where it is silent.
        is_silent: nothing is asked, and what is not given takes its default.
        values: key of the settings file, `data.calibration` -> value; paths as seen from the current folder.
    """

    given: dict[str, Any]
    is_silent: bool
    values: dict[str, Any] = field(default_factory=dict)

    def ask(self, option: str, question: str, check: Callable[[str], _T], default: str | None = None) -> tuple[str, _T]:
        """Return an answer and what its check returned.

        Args:
            option: answers it where it is given.
            question: asked until the answer passes.
            check: raises FewbitsError where an answer cannot be used.
            default: taken for an empty answer, and where nothing is asked.

        Raises:
            FewbitsError: the answer of the command line cannot be used, or there is none and nothing may be asked.
        """
        text = self.given.get(option)
        if text is None and self.is_silent:
            text = default
            if text is None:
                raise SpecError(f"--yes asks nothing, so --{option} must be given.")
        if text is not None:
            return str(text), check(str(text))
        while True:
            answer = str(typer.prompt(question, default=default)).strip()
            try:
                return answer, check(answer)
            except FewbitsError as error:
                _say_refused(error)


def interview(given: dict[str, Any], *, output: str, is_silent: bool) -> dict[str, Any]:
    """Return the values of a new settings file: `data.calibration` -> value, as TOML knows it.

    Args:
        given: option -> value of the command line.
        output: folder that is proposed for the files.
        is_silent: ask nothing.

    Raises:
        FewbitsError: what the command line gives cannot be used.
        typer.Abort: the user interrupted, or the input ended.
    """
    talk = Interview(given, is_silent)
    look = _ask_model(talk)
    data = _ask_data(talk, look)
    sqnr = _ask_metric(talk, look, data)
    _ask_target(talk)
    _ask_goal(talk, is_sqnr=sqnr)
    talk.values["run.output"] = talk.ask("output", "Folder for the files", _not_a_file, output)[0]
    return talk.values


def _ask_model(talk: Interview) -> Any:
    from fewbits.workflow.first_look import look_at_model

    dims = parse_dims(talk.given.get("dim"))
    found = sorted(Path().glob("*.onnx"))
    default = str(found[0]) if len(found) == 1 and not talk.is_silent else None
    path, look = talk.ask(
        "model", "Model (.onnx, or the folder of a run)", lambda text: look_at_model(text, dims), default
    )
    talk.values["model.path"] = path
    if dims:
        talk.values["model.dim"] = dims
    if not talk.is_silent:
        typer.echo(f"  inputs: {'; '.join(map(str, look.inputs))}\n  outputs: {'; '.join(map(str, look.outputs))}")
    return look


def _ask_data(talk: Interview, look: Any) -> Any:
    """Return the data that scores come from."""
    from fewbits.workflow.first_look import are_images, look_at_data

    def check(text: str) -> Any:
        _there(text)
        return None if are_images(text) else look_at_data(text, look)

    path, data = talk.ask("data", "Calibration data (image folder, .npz, .npy, file.py:function)", check)
    talk.values["data.calibration"] = path
    preprocess = None
    if data is None:
        preprocess, data = _ask_images(talk, path, look)
    _say_data(talk, data)
    other, scored = talk.ask(
        "eval-data", "Evaluation data, with labels if there are any (empty: the calibration data)",
        lambda text: look_at_data(text, look, preprocess) if text else data, "",
    )  # fmt: skip
    if other:
        talk.values["data.evaluation"] = other
        _say_data(talk, scored)
    return scored


def _ask_images(talk: Interview, path: str, look: Any) -> tuple[Any, Any]:
    """Return how images become inputs, None for fewbits' own way, and the data; asks again where they do not fit."""
    from fewbits.workflow.first_look import look_at_data

    is_answered = any(talk.given.get(name) is not None for name in ("preset", *IMAGE_STEPS))
    while True:
        preset, steps = _ask_preprocess(talk, is_answered=is_answered)
        try:
            preprocess = _preprocess(preset, steps)
            data = look_at_data(path, look, preprocess)
        except FewbitsError as error:
            if talk.is_silent or is_answered:
                raise
            _say_refused(error)
            continue
        values = {"preset": preset} | {name: listed(value) for name, value in steps.items()}
        talk.values |= {f"preprocess.{name}": value for name, value in values.items() if value is not None}
        return preprocess, data


def _ask_preprocess(talk: Interview, *, is_answered: bool) -> tuple[str | None, dict[str, Any]]:
    """Return the name of a preset, or None, and the steps that differ from it."""
    from fewbits.runtime.data import PRESETS, parse_preset

    if is_answered:
        return talk.given.get("preset"), {name: talk.given.get(name) for name in IMAGE_STEPS}

    def check(text: str) -> None:
        if text not in (_OWN, _NONE):
            parse_preset(text)

    choices = f"{', '.join(PRESETS)}, {_OWN}, or {_NONE} for pixels 0..1 at the model's size"
    preset, _ = talk.ask("preset", f"Preprocessing ({choices})", check, _NONE)
    if preset == _OWN:
        return None, _ask_steps(talk)
    return (None if preset == _NONE else preset), {}


def _ask_steps(talk: Interview) -> dict[str, Any]:
    questions = {
        "resize": "Resize: shorter side, or height,width (empty: no)",
        "crop": "Centre crop: side, or height,width (empty: no)",
        "mean": "Mean per channel, such as 0.485,0.456,0.406 (empty: 0)",
        "std": "Standard deviation per channel (empty: 1)",
        "scale": "Factor of the pixels 0..255 (empty: 1/255)",
        "channel-order": "Order of colours, rgb or bgr (empty: rgb)",
        "layout": "Order of axes, nchw or nhwc (empty: read off the model)",
    }
    steps: dict[str, Any] = {}
    for name, question in questions.items():
        _, steps[name] = talk.ask(name, question, partial(_check_step, steps, name), "")
    return steps


def _check_step(steps: dict[str, Any], name: str, text: str) -> Any:
    if not text:
        return None
    value = _number(text) if name == "scale" else text
    _preprocess(None, {**steps, name: value})
    return value


def _preprocess(preset: str | None, steps: dict[str, Any]) -> Any:
    return parse_preprocess(preset, **{name.replace("-", "_"): value for name, value in steps.items()})


def _ask_metric(talk: Interview, look: Any, data: Any) -> bool:
    """Ask for the metric; return whether it is sqnr, which has a floor and no drop."""
    from fewbits.workflow.first_look import look_at_metric, suggest_metric

    direction = talk.given.get("higher-is-better")
    kind = "labels" if data.has_labels else "no labels"

    def check(text: str) -> Any:
        try:
            return look_at_metric(text, data, direction)
        except SpecError:
            if talk.is_silent or direction is not None or not split_function(text)[1]:
                raise
            return look_at_metric(text, data, higher_is_better=False)  # its name says so, and the user is asked below

    name, metric = talk.ask(
        "metric",
        f"Metric (with {kind} and these outputs: {suggest_metric(data, look)}; or another, or file.py:function)",
        check,
        suggest_metric(data, look),
    )
    talk.values["metric.name"] = name
    is_own = bool(split_function(name)[1])
    if is_own and direction is None and not talk.is_silent:
        direction = typer.confirm("Is a higher value better?", default=metric.higher_is_better)
    if is_own:
        talk.values["metric.higher-is-better"] = metric.higher_is_better if direction is None else direction
    return name.partition("@")[0] == "sqnr"


def _ask_target(talk: Interview) -> None:
    if not talk.is_silent and talk.given.get("target") is None:
        from fewbits.workflow.targets import targets

        for target in targets():
            typer.echo(f"  {target.name}: {target.description}")
    talk.values["target.name"] = talk.ask("target", "Target", load_target, DEFAULT_TARGET)[0]


def _ask_goal(talk: Interview, *, is_sqnr: bool) -> None:
    from fewbits.workflow.goal import DEFAULT_RELATIVE, DEFAULT_SQNR, check_goal

    unsuited = "max-drop" if is_sqnr else "min-sqnr"
    if talk.given.get(unsuited) is not None:
        what = "the metric is sqnr: give --min-sqnr" if is_sqnr else "the metric is not sqnr: give --max-drop"
        raise SpecError(f"--{unsuited} does not suit, {what}.")
    if is_sqnr:
        question = "Least acceptable SQNR in dB"
        _, floor = talk.ask("min-sqnr", question, _number, f"{DEFAULT_SQNR:g}")
        check_goal(None, floor)
        talk.values["goal.min-sqnr"] = floor
        return
    question = "Acceptable drop, in the metric's unit (0.5) or of the float score (1%)"
    default = f"{100 * DEFAULT_RELATIVE:g}%"
    text, _ = talk.ask("max-drop", question, lambda text: check_goal(text, None), default)
    talk.values["goal.max-drop"] = listed(text)


def _there(text: str) -> None:
    file = Path(split_function(text)[0]).expanduser()
    if not text or not file.exists():
        raise SpecError(f"The data {text!r} does not exist: name a file or folder that is there.")


def _not_a_file(text: str) -> None:
    if Path(text).expanduser().is_file():
        raise SpecError(f"{text!r} is a file: name a folder, which may be new.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{text!r} is no number: write 0.5.") from None


def listed(value: Any) -> Any:
    """Return [0.5, 0.4] of "0.5,0.4", 224 of "224", and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        numbers = [int(part) if part.strip().isdigit() else float(part) for part in value.split(",")]
    except ValueError:
        return value
    return numbers if len(numbers) > 1 else numbers[0]


def _say_refused(error: FewbitsError) -> None:
    typer.echo(f"  {' '.join(str(error).split())}", err=True)


def _say_data(talk: Interview, data: Any) -> None:
    if not talk.is_silent:
        typer.echo(f"  fits; {'with' if data.has_labels else 'without'} labels")
