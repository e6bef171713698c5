r"""gace and its peers on the same work, in turn, in one go; medians, ratios and memory.

    python benchmarks/side_by_side.py --workload inf:3bpa --workload inf:si64 --dtype float32 \
        --peer mace=PEERS/mace/bin/python --peer nequip=PEERS/nequip/bin/python,path=fast \
        --peer tp=PEERS/tp/bin/python,model=2l-medium --rounds 3 --out benchmarks/results/speed.md

A peer is NAME=INTERPRETER with its driver's options after commas (``model=``, ``path=``); without ``--peer``
the interpreters are taken from GACE_PEER_MACE, GACE_PEER_NEQUIP and GACE_PEER_TP. Every round runs each
contestant once, one after the other (ABAB…), so that what else the machine does hits all alike. A peer that
is absent, or that fails, is said to be so and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DRIVERS = {"mace": "mace_driver.py", "nequip": "nequip_driver.py", "tp": "tp_driver.py"}


@dataclass(frozen=True)
class Contestant:
    """A program to be measured."""

    name: str
    command: tuple[str, ...]
    """Interpreter, driver and fixed options."""
    environment: dict[str, str] = field(default_factory=dict)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", action="append", help="repeatable; default inf:3bpa")
    parser.add_argument("--dtype", action="append", help="float32 or float64; repeatable; default both")
    parser.add_argument("--ours", action="append", metavar="MODEL[,path=…]", help="default 2L-medium")
    parser.add_argument("--peer", action="append", metavar="NAME=PYTHON[,model=…][,path=…]")
    parser.add_argument("--drivers", type=Path, default=HERE.parent.parent / "shared" / "peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="timed steps of a round at most")
    parser.add_argument("--seconds", type=float, default=6, help="CPU seconds of timed steps of a round")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a run is given up")
    parser.add_argument("--log", type=Path, help="append every result to this file, one JSON object a line")
    parser.add_argument("--out", type=Path, help="also write the tables as markdown")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def options(text: str) -> tuple[str, list[str], str]:
    """First field, its options as arguments, and the label they make: ``a,path=b`` → a, [--path, b], b."""
    first, *rest = text.split(",")
    pairs = [one.partition("=")[::2] for one in rest]
    flags = [part for key, value in pairs for part in (f"--{key}", value)]
    return first, flags, " ".join(value for _, value in pairs)


def contestants(args: argparse.Namespace) -> tuple[list[Contestant], list[str]]:
    """Ours first, then the peers that are there; and what is absent."""
    speed, data = str(HERE / "speed.py"), args.drivers / "data"
    found, absent = [], []
    shared = ["--data", str(data)] if data.is_dir() else []
    for one in args.ours or ["2L-medium"]:
        model, flags, label = options(one)
        command = (sys.executable, speed, "--json", "--model", model, *shared, *flags)
        found.append(Contestant(f"gace {model} {label}".strip(), command))
    peers = args.peer
    if peers is None:
        named = ((name, os.environ.get(f"GACE_PEER_{name.upper()}")) for name in DRIVERS)
        peers = [f"{name}={value}" for name, value in named if value]
        absent += [f"{name}: no --peer and no GACE_PEER_{name.upper()}" for name in DRIVERS
                   if not os.environ.get(f"GACE_PEER_{name.upper()}")]  # fmt: skip
    for one in peers:
        name, _, rest = one.partition("=")
        if name not in DRIVERS:
            sys.exit(f"error: no driver for a peer called '{name}': there are {', '.join(DRIVERS)}")
        interpreter, flags, label = options(rest)
        driver = args.drivers / DRIVERS[name]
        missing = [str(path) for path in (Path(interpreter), driver) if not path.exists()]
        if missing:
            absent.append(f"{name}: no such file: {', '.join(missing)}")
        else:
            found.append(Contestant(f"{name} {label}".strip(), (interpreter, str(driver), *flags)))
    return found, absent


def measure(one: Contestant, workload: str, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own: what it prints, or ``{"error": …}``."""
    command = [*one.command, "--workload", workload, "--dtype", dtype]
    command += ["--steps", str(args.steps), "--seconds", str(args.seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("SPEED_LOG", None)
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=args.timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {args.timeout:g} s"}
    for line in reversed(ended.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    tail = (ended.stderr.strip() or ended.stdout.strip() or "no output").splitlines()[-1]
    return {"error": f"exit {ended.returncode}: {tail[:200]}"}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median over rounds of the medians, the least time, memory; or the error."""
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[-1]["error"]}
    last, median = good[-1], statistics.median
    return {
        "version": last["version"],
        "model": last["model"],
        "rounds": len(good),
        "ms_per_step": median(run["ms_per_step"] for run in good),
        "ms_min": min(run["ms_min"] for run in good),
        "us_per_atom": median(run["us_per_atom"] for run in good),
        "peak_mb": max(run["peak_mb"] for run in good),
        "first_call_s": median(run["first_calls_wall_cpu_s"][0][1] for run in good),
        "calib_ms": median(value for run in good for value in run["calib_ms"]),
        "n_params": last.get("n_params"),
    }


def rows(summary: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Cells of a table; ratios are to the first contestant, which is ours."""
    ours = next(iter(summary.values()))
    found = []
    for name, one in summary.items():
        if "error" in one:
            found.append([name, one["error"], *[""] * 6])
            continue
        known = "error" not in ours
        found.append([
            name,
            f"{one['ms_per_step']:.1f}",
            f"{one['ms_min']:.1f}",
            f"{one['us_per_atom']:.0f}",
            f"{one['ms_per_step'] / ours['ms_per_step']:.2f}" if known else "",
            str(one["peak_mb"]),
            f"{one['peak_mb'] / ours['peak_mb']:.2f}" if known else "",
            f"{one['first_call_s']:.2f}",
        ])  # fmt: skip
    return found


HEAD = ["", "ms/step", "least", "µs/atom", "time / ours", "peak MB", "memory / ours", "first call s"]


def show(title: str, summary: dict[str, dict[str, Any]]) -> None:
    """Print a table on standard error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows(summary):
        table.add_row(*row)
    Console(stderr=True, width=120).print(table)


def markdown(record: dict[str, Any]) -> str:
    """The whole record as a page."""
    lines = [
        "# Side by side",
        "",
        f"{record['date']}; {record['machine']}, one thread; {record['rounds']} interleaved rounds; "
        "processor time: median over rounds of each round's median step, and the least step of all. "
        "Made by `benchmarks/side_by_side.py`.",
        "",
    ]
    versions = {
        name.split()[0]: one["version"]
        for table in record["results"].values()
        for name, one in table.items()
        if "version" in one
    }
    lines += ["Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".", ""]
    lines += [f"- absent: {one}" for one in record["absent"]]
    for title, summary in record["results"].items():
        lines += ["", f"## {title}", "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows(summary)]
    return "\n".join(lines) + "\n"


def main() -> None:
    from clock import machine

    args = arguments()
    found, absent = contestants(args)
    for one in absent:
        print(f"absent: {one}", file=sys.stderr)
    results: dict[str, dict[str, Any]] = {}
    for workload in args.workload or ["inf:3bpa"]:
        for dtype in args.dtype or ["float32", "float64"]:
            runs: dict[str, list[dict[str, Any]]] = {one.name: [] for one in found}
            for _ in range(args.rounds):
                for one in found:
                    run = measure(one, workload, dtype, args)
                    runs[one.name].append(run)
                    if args.log:
                        with args.log.open("a") as log:
                            log.write(json.dumps({"contestant": one.name, "dtype": dtype, **run}) + "\n")
            title = f"{workload} {dtype}"
            results[title] = {name: summarise(each) for name, each in runs.items()}
            show(title, results[title])
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "rounds": args.rounds,
        "absent": absent,
        "results": results,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(markdown(record), encoding="utf-8")
    if args.json:
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
