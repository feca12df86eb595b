"""Command targets."""

from fewbits.cli.options import Json


def targets(json: Json = False) -> None:
    """List the device profiles that --target takes."""
    from fewbits.cli import show
    from fewbits.workflow.targets import targets as verb

    found = verb()
    if json:
        show.print_json({target.name: target.description for target in found})
        return
    rows = [
        (
            target.name,
            target.description,
            " ".join(sorted(dtype.value for dtype in target.weight_types)),
            " ".join(sorted(dtype.value for dtype in target.activation_types)),
            "yes" if target.fp16 else "no",
        )
        for target in found
    ]
    out = show.console()
    show.print_table(out, "", ("target", "device", "weights", "activations", "fp16"), rows)
    out.print("or a file: FILE.toml with rules of your own, aimet:FILE.json with AIMET's quantsim configuration")
