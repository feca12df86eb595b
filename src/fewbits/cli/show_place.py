"""What `verify` prints where it ran on Qualcomm's emulator or in OpenVINO."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.deployment.place_certificate import ALLOWED_LOSS_DB, Localized, OutputAtPlace, ScoreAtPlace
from fewbits.workflow.verify_place import VerifyPlaceResult

_MOST_ROWS = 8


def place_json(result: VerifyPlaceResult) -> None:
    """Print the certificate, and where it lies."""
    show.print_json({"path": result.path, **asdict(result.certificate)})


def place_table(result: VerifyPlaceResult) -> None:
    """Print verdict, distance per output, score, what differs, limits."""
    out, certificate = show.console(), result.certificate
    where = certificate.place + (f" ({result.soc.name})" if result.soc else "")
    if result.passed:
        out.print(f"passed: {where} follows the simulation on {certificate.samples} samples")
    rows = [
        (name, show.sqnr(one.place_db), show.sqnr(one.float_db), _steps(one))
        for name, one in certificate.outputs.items()
    ]
    columns = ("output", "against the file", "the file against float", "steps apart: values")
    show.print_table(out, f"{where}; the file: {certificate.reference}", columns, rows)
    if certificate.score is not None:
        out.print(_score(certificate.score))
    for name, one in certificate.outputs.items():
        if not one.passed and one.channels:
            worst = ", ".join(f"{channel} ({100 * share:.0f} %)" for channel, share in one.channels)
            out.print(f"channels of {name!r} that hold most of the difference: {worst}")
    if certificate.wrong_types:
        columns = ("node", "operator", "in the file", "compiled")
        show.print_table(out, "compiled in another type than the file says", columns, certificate.wrong_types)
    if certificate.localized is not None:
        _print_localized(certificate.localized)
    for sentence in certificate.not_proven:
        out.print(f"not shown: {sentence}")
    out.print(f"certificate: {result.path}", soft_wrap=True)


def failure(result: VerifyPlaceResult) -> str:
    """Return one sentence on why it failed."""
    if damaged := result.certificate.conditions.get("damaged"):
        return f"{', '.join(damaged)} is missing or is not the file that was recorded."
    if result.certificate.wrong_types:
        return f"{len(result.certificate.wrong_types)} operators were compiled in another type than the file says."
    worst = ", ".join(name for name, one in result.certificate.outputs.items() if not one.passed)
    return f"{result.certificate.place} is more than {ALLOWED_LOSS_DB:g} dB below what quantization costs at {worst}."


def _steps(one: OutputAtPlace) -> str:
    return ", ".join(f"{steps}: {count}" for steps, count in one.steps.items())


def _score(score: ScoreAtPlace) -> str:
    float_, sim, place = (show.figure(value, score.unit) for value in (score.float_, score.sim, score.place))
    text = f"{score.metric} on {score.samples} samples: float {float_}, simulation {sim}, here {place}"
    if score.interval is None:
        return text
    low, high = (show.figure(end, score.unit) for end in score.interval)
    return f"{text} (lost {show.figure(score.lost, score.unit)}, 95 %: {low} to {high})"


def _print_localized(found: Localized) -> None:
    out = show.console()
    out.print(
        f"{found.output!r} on one sample: {show.sqnr(found.db)} to the simulation; {show.sqnr(found.tapped_db)} when "
        f"every tensor inside is an output, too, so that nothing is fused"
    )
    kinds = sorted(found.tapped_by_op.items(), key=lambda row: -(row[1] if row[1] is not None else float("inf")))
    rows = [(op, show.sqnr(value)) for op, value in kinds]
    show.print_table(out, "when only what these operators write is an output, too", ("operator", "output"), rows)
    lines = [
        (
            one.node,
            one.op,
            show.sqnr(one.alone_db),
            "" if one.worst_steps is None else str(one.worst_steps),
            "" if one.share_off is None else f"{100 * one.share_off:.2g} %",
            show.sqnr(one.db),
        )
        for one in found.tensors[:_MOST_ROWS]
    ]
    columns = ("node", "operator", "alone", "worst steps", "more than 1 off", "in the network")
    title = "operators that differ most when they are given what the simulation gives them"
    show.print_table(out, title, columns, lines, right=(2, 3, 4, 5))
