"""What `convert`, `inspect` and `prepare` print."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.graph.inspect import TensorInfo
from fewbits.runtime.data import InputInfo
from fewbits.workflow.convert import ConvertResult
from fewbits.workflow.inspect import InspectResult
from fewbits.workflow.parity import Parity
from fewbits.workflow.prepare import PrepareResult


def inspect_json(result: InspectResult) -> None:
    """Print everything."""
    summary = asdict(result.summary) | {"total_macs": result.summary.total_macs}
    show.print_json(
        {
            "model": result.model,
            "summary": summary,
            "target": result.target,
            "operators": [asdict(row) for row in result.operators],
            "changes": [asdict(report) for report in result.changes],
        }
    )


def inspect_table(result: InspectResult) -> None:
    """Print inputs, outputs, size, and what can be quantized."""
    out, summary = show.console(), result.summary
    out.print(
        f"{result.model}: ONNX opset {summary.opsets.get('', '?')}, IR version {summary.ir_version}", soft_wrap=True
    )
    rows = [("input", *_tensor(info)) for info in summary.inputs] + [
        ("output", *_tensor(info)) for info in summary.outputs
    ]
    show.print_table(out, "", ("", "name", "type", "shape"), rows)
    unknown = [row.reason for row in summary.macs if row.macs is None]
    macs = f"unknown ({unknown[0]})" if unknown else show.count(summary.total_macs)
    out.print(
        f"parameters {show.count(summary.parameters)} ({show.size(summary.parameter_bytes)}), multiply-accumulates per "
        f"sample {macs}",
    )
    out.print("operators: " + ", ".join(f"{op} {n}" for op, n in summary.operators.items()))
    planned = []
    for row in result.operators:
        why = "; ".join(f"{reason} ({n})" for reason, n in row.reasons.items())
        planned.append((row.op, str(row.nodes), str(row.quantized), why))
    title = f"after `prepare`, on {result.target}"
    show.print_table(out, title, ("operator", "nodes", "quantized", "why not the others"), planned, right=(1, 2))


def _tensor(info: TensorInfo) -> tuple[str, str, str]:
    shape = "?" if info.shape is None else f"[{', '.join(map(str, info.shape))}]"
    return info.name, info.dtype, shape


def prepare_json(result: PrepareResult) -> None:
    """Print what changed and the parity."""
    show.print_json(
        {
            "output": result.output,
            "nodes_before": result.nodes[0],
            "nodes_after": result.nodes[1],
            "changes": [asdict(report) for report in result.changes],
            "parity": asdict(result.parity),
            "timings": result.seconds,
        }
    )


def prepare_table(result: PrepareResult) -> None:
    """Print what changed, what was declined, and the parity."""
    out, parity = show.console(), result.parity
    out.print(f"nodes: {result.nodes[0]} before, {result.nodes[1]} after")
    if result.changes:
        show.print_changes(out, result.changes)
    else:
        out.print("nothing to change")
    if parity.reason:
        out.print(f"outputs not compared on {parity.feeds}: {parity.reason}")
    else:
        title = f"prepared against original, on {parity.samples} samples of {parity.feeds}"
        show.print_table(out, title, ("output", "SQNR", "largest difference"), _parity_rows(parity), right=(1, 2))
    if result.output is not None:
        out.print(f"written: {result.output}", soft_wrap=True)


def convert_json(result: ConvertResult) -> None:
    """Print everything but the graph."""
    show.print_json(
        {
            "output": result.output,
            "opset": result.opset,
            "nodes": result.nodes,
            "inputs": [asdict(info) for info in result.inputs],
            "outputs": [asdict(info) for info in result.outputs],
            "parity": [asdict(parity) for parity in result.parity],
            "timings": result.seconds,
        }
    )


def convert_table(result: ConvertResult) -> None:
    """Print inputs, outputs, the parity with torch, and where the file is."""
    out = show.console()
    out.print(f"ONNX opset {result.opset}, {result.nodes} nodes")
    ends = [("input", *_end(info)) for info in result.inputs] + [("output", *_end(info)) for info in result.outputs]
    show.print_table(out, "", ("", "name", "type", "shape"), ends)
    rows = [(parity.feeds, *row) for parity in result.parity for row in _parity_rows(parity)]
    show.print_table(out, "ONNX against torch", ("on", "output", "SQNR", "largest difference"), rows, right=(2, 3))
    for parity in result.parity:
        if parity.reason:
            out.print(f"not compared on {parity.feeds}: {parity.reason}")
    if result.output is not None:
        out.print(f"written: {result.output}", soft_wrap=True)


def _parity_rows(parity: Parity) -> list[tuple[str, str, str]]:
    return [(name, show.sqnr(db), f"{parity.max_abs[name]:.3g}") for name, db in parity.sqnr_db.items()]


def _end(info: InputInfo) -> tuple[str, str, str]:
    shape = ", ".join("?" if dim is None else str(dim) for dim in info.shape)
    return info.name, str(info.dtype), f"[{shape}]"
