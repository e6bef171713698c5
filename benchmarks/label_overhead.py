"""What a label costs besides the calculation: ``gace labels run`` with a teacher that takes no time.

Run: ``python benchmarks/label_overhead.py``; ``--aiida`` adds the same through AiiDA (one job per batch).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from label_faults import clusters

from gace.structures.io import write_structures

RESULTS = Path(__file__).parent / "results" / "label-overhead.md"


def processor_time() -> float:
    """Processor time of this process and of those it has waited for, s."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def by_command(count: int) -> dict:
    """Seconds per structure of one ``gace labels run``, its start included."""
    from gace_platform.labelling.config import LabelConfig
    from gace_platform.labelling.run import run_labels

    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        write_structures(where / "pool.xyz", clusters(count, 0))
        config = LabelConfig(
            reference={"engine": "teacher", "calculator": "lj"},
            structures=where / "pool.xyz",
            store=where / "store",
        )
        wall, cpu = time.monotonic(), processor_time()
        summary = run_labels(config, where / "out")
        return _row("command", count, wall, cpu, summary["core_seconds"])


def by_aiida(count: int) -> dict:
    """The same through the work chain ``gace.label`` in a profile of its own: one job on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AIIDA_PATH"] = folder
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        from aiida import engine, orm
        from aiida.manage.configuration import load_profile
        from aiida.storage.sqlite_temp import SqliteTempBackend

        from aiida_gace.data.dataset import DatasetData
        from gace_workflows.campaign.profile import ensure_computer, gace_code
        from gace_workflows.labelling import LabelWorkChain

        profile = load_profile(SqliteTempBackend.create_profile("overhead"), allow_switch=True)
        profile.set_option("runner.poll.interval", 1)
        ensure_computer(Path(folder) / "work")
        config = {"reference": {"engine": "teacher", "calculator": "lj"}, "store": f"{folder}/store"}
        structures = DatasetData(clusters(count, 0)).store()
        code = gace_code()
        wall, cpu = time.monotonic(), processor_time()
        results, node = engine.run_get_node(
            LabelWorkChain,
            code=code,
            structures=structures,
            config=orm.Dict(config),
            max_in_flight=orm.Int(1),
        )
        if not node.is_finished_ok:
            raise SystemExit(f"the work chain failed: {node.exit_message}")
        rows = results["verdicts"].get_dict()["structures"]
        return _row("AiiDA", count, wall, cpu, sum(row["paid"] for row in rows))


def _row(way: str, count: int, wall: float, cpu: float, engine: float) -> dict:
    wall, cpu = time.monotonic() - wall, processor_time() - cpu
    return {
        "way": way,
        "structures": count,
        "wall_per_structure": (wall - engine) / count,
        "cpu_per_structure": max(cpu - engine, 0.0) / count,
        "load": os.getloadavg()[0],
    }


def table(rows: list[dict]) -> str:
    """The figures as Markdown."""
    lines = [
        "# What a label costs besides the calculation",
        "",
        "`python benchmarks/label_overhead.py --aiida --write`: Lennard-Jones clusters, the engine's own",
        "processor time taken off, start of all processes included. "
        f"{os.cpu_count()} cores; the load is the number of processes that wanted them.",
        "",
        "Asked for: at most 1 s per structure at 100. Through AiiDA: the work chain `gace.label` with its",
        "two jobs (labels, audit) in a profile with SQLite, polled every second; its processor time is that",
        "of the work chain alone.",
        "",
        "| way | structures in the batch | wall time each, s | processor time each, s | load |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['way']} | {row['structures']} | {row['wall_per_structure']:.3f} "
        f"| {row['cpu_per_structure']:.3f} | {row['load']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--aiida", action="store_true", help="also through AiiDA, audit included")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = [by_command(count) for count in arguments.sizes]
    if arguments.aiida:
        # a process of its own for each: AiiDA knows one configuration folder per process
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows += pool.map(by_aiida, arguments.sizes, chunksize=1)
    text = table(rows)
    print(text)
    if arguments.write:
        RESULTS.write_text(text)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
