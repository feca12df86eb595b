"""What `evaluate` and `verify` print."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.workflow.evaluate import EvaluateResult
from fewbits.workflow.verify import VerifyResult


def evaluate_json(result: EvaluateResult) -> None:
    """Print the score."""
    score = result.score
    show.print_json(
        {
            "model": result.model,
            "reference": result.reference,
            "metric": score.metric,
            "score": score.value,
            "unit": score.unit,
            "higher_is_better": score.higher_is_better,
            "samples": score.samples,
            "timings": result.seconds,
        }
    )


def evaluate_table(result: EvaluateResult) -> None:
    """Print the score."""
    score, out = result.score, show.console()
    against = f" against {result.reference}" if result.reference else ""
    text = f"{score.metric} {show.figure(score.value, score.unit)} on {score.samples} samples{against}"
    out.print(f"{result.model}: {text}", soft_wrap=True)
    out.print(show.timings(result.seconds))


def verify_json(result: VerifyResult) -> None:
    """Print the certificate, and where it lies."""
    show.print_json({"path": result.path, "damaged": result.damaged, **asdict(result.certificate)})


def verify_table(result: VerifyResult) -> None:
    """Print verdict, parity per output, limits."""
    out, certificate = show.console(), result.certificate
    if result.passed:
        out.print(f"passed: a fresh process gives the scored bytes on {certificate.samples} samples")
    rows = [
        (
            name,
            f"{parity.differing} of {parity.values}",
            show.sqnr(parity.exact_db),
            show.sqnr(parity.plain_db),
            show.sqnr(parity.float_db),
        )
        for name, parity in certificate.outputs.items()
    ]
    columns = ("output", "values that differ", "as written", "default session", "float")
    show.print_table(out, "fresh process against the scored sim, and its SQNR against", columns, rows)
    is_other = any(parity.plain_db is not None for parity in certificate.outputs.values())
    if is_other and certificate.conditions.get("plain_sessions_saturate"):
        out.print(_SATURATES)
    for sentence in certificate.not_proven:
        out.print(f"not shown: {sentence}")
    out.print(f"certificate: {result.path}", soft_wrap=True)


_SATURATES = (
    "note: on this processor 8-bit kernels saturate in a default onnxruntime session: where you run the model "
    "yourself, add the session config entry session.x64quantprecision=1."
)


def failure(result: VerifyResult) -> str:
    """Return one sentence on why it failed."""
    if result.damaged:
        return f"{', '.join(result.damaged)} is missing or is not the file that was recorded."
    certificate = result.certificate
    before, now = (certificate.conditions[key] for key in ("scored_with", "machine"))
    elsewhere = before["machine"] != now or before["versions"] != certificate.conditions["versions"]
    hint = " It was scored on another machine or with other versions, which may round otherwise." if elsewhere else ""
    values = sum(parity.values for parity in certificate.outputs.values())
    return f"{certificate.differing} of {values} output values differ from what was scored.{hint}"
