"""Scores of the peers on all networks, as each tool's users would quantize them, side by side with fewbits' own.

Every row is written as it finishes, so the script can be stopped at any time; a row that is recorded with the same
versions is not run again. A failure is recorded as the tool's own error.
"""

import json
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import peer_tools
import record
from networks import NETWORKS
from peer_tools import ORDER, Setting
from run_peer import PeerError, run_peer

NETWORK_ORDER = ("imdn", "fastestdet", "kwt1", "stories", "resnet56", "mobilenetv1", "mobilenetv2")  # quick ones first
STOPPED = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.set_defaults(threads=1)
    every = tuple(dict.fromkeys(s.precision for s in ORDER))
    parser.add_argument("--networks", nargs="*", choices=NETWORK_ORDER, default=list(NETWORK_ORDER))
    parser.add_argument("--tools", nargs="*", choices=peer_tools.TOOLS, default=list(peer_tools.TOOLS))
    parser.add_argument("--precisions", nargs="*", choices=every, default=list(every))
    parser.add_argument("--again", action="store_true", help="run recorded rows too")
    args = parser.parse_args()
    found = record.start("peers: scores as their users get them")
    path = args.results / "peers.json"
    rows: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    versions = {tool: run_peer(tool, "versions").get("versions") for tool in args.tools}
    for tool in (t for t, v in versions.items() if v is None):
        print(f"{tool} is left out: run benchmarks/peers/setup.sh {tool}")
    for setting in wanted(args):
        for network in (n for n in NETWORK_ORDER if n in args.networks):
            name = key(network, setting)
            is_recorded = name in rows and rows[name]["versions"] == versions[setting.tool]
            if versions[setting.tool] and (args.again or not is_recorded):
                rows[name] = {**row(args, network, setting), "cpu": found["cpu"], "versions": versions[setting.tool]}
                show(name, rows[name])
                store(path, args, found, rows)


def wanted(args: Namespace) -> list[Setting]:
    """Return the settings that the command line selects, in the order to run them."""
    return [s for s in ORDER if s.tool in args.tools and s.precision in args.precisions]


def key(network: str, setting: Setting) -> str:
    """Return the name of a row in the record."""
    return f"{network}/{setting.tool}/{setting.precision}/{setting.scheme}"


def row(args: Namespace, network: str, setting: Setting) -> dict[str, Any]:
    """Quantize and score in a process of its own; `wall_s` is all of it, from the interpreter's start."""
    samples, begin = peer_tools.SAMPLES[setting.tool], time.perf_counter()
    about = {"date": record.machine(())["date"], "threads": args.threads}
    try:
        answer = run_peer(
            setting.tool, "score", network=network, precisions=[setting.precision], schemes=[setting.scheme],
            samples=samples, threads=args.threads,
        )  # fmt: skip
    except PeerError as error:
        if -error.status in STOPPED:
            raise SystemExit(f"stopped by signal {-error.status}: {network}, {setting} is not recorded") from error
        if error.status > 0:
            raise
        return {**about, "error": f"the process ended with {signal.Signals(-error.status).name}"}
    result = answer["rows"][setting.precision][setting.scheme]
    return {
        **about,
        "samples": answer["samples"],
        "data_s": answer["data_s"],
        **result,
        "wall_s": time.perf_counter() - begin,
    }


def show(name: str, result: dict[str, Any]) -> None:
    value = f"{result['score']:.3f}" if "score" in result else f"fails: {result['error']}"
    print(f"{name:44}  {value:>8}  {result.get('wall_s', 0.0):6.1f} s", flush=True)


def store(path: Path, args: Namespace, found: dict[str, Any], rows: dict[str, Any]) -> None:
    """Write the record in one step: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = {k: rows[k] for n in NETWORKS for s in ORDER if (k := key(n, s)) in rows}
    fresh = path.with_suffix(".tmp")
    text = json.dumps({"machine": found, "options": {"threads": args.threads}, "results": ordered}, indent=1)
    fresh.write_text(text + "\n")
    fresh.replace(path)


if __name__ == "__main__":
    main()
