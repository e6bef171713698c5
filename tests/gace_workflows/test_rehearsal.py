"""A whole campaign through AiiDA, Dask and MLflow, with a teacher in the place of DFT."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# a minute or two on two free cores; the limit is for machines that are busy
pytestmark = [
    pytest.mark.aiida,
    pytest.mark.daemon,
    pytest.mark.dask,
    pytest.mark.mlflow,
    pytest.mark.timeout(1800),
]


def verdi(folder, *arguments):
    """What AiiDA's own command prints for the profile in a campaign's folder."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "verdi"), "-p", "tiny", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AIIDA_PATH": str(folder / ".aiida")},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_summary_keeps_its_promises(rehearsal):
    folder, summary, _ = rehearsal
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["champion"] == "models:/tiny@champion"
    assert summary["labels"] <= 12
    assert summary["labels_failed"] == 0
    assert summary["labels_paid_twice"] == 0
    assert summary["isolated_atoms"] == 1
    assert summary["generations"] == 2
    assert {"train", "explore", "select", "label", "examine"} <= set(summary["core_seconds"])
    assert Path(summary["report"]).is_file()


def test_labels_in_the_store_are_those_in_the_summary(rehearsal):
    from gace_platform.ledger.store import LabelStore

    folder, summary, _ = rehearsal
    assert (
        sum(1 for _ in LabelStore(folder / "labels").records())
        == summary["labels"] + summary["isolated_atoms"]
    )


def test_champion_evaluates_the_data_it_left(rehearsal):
    import gace
    from gace.structures.io import read_structures

    folder, summary, _ = rehearsal
    found = gace.evaluate(gace.load(summary["bundle"]), read_structures(folder / "data" / "exam.xyz"))
    last = [entry for entry in summary["learning_curve"] if entry["champion"]][-1]
    assert found["forces"]["mae"] == pytest.approx(last["forces_mae"], rel=1e-5)


def test_exam_was_never_trained_on(rehearsal):
    from gace.structures.identity import structure_hash
    from gace.structures.io import read_structures

    folder, summary, _ = rehearsal
    exam, trained = (
        {structure_hash(atoms) for atoms in read_structures(folder / "data" / f"{name}.xyz")}
        for name in ("exam", "dataset")
    )
    assert len(exam) == summary["labels_exam"]
    assert not exam & trained


def test_exam_and_training_set_share_no_trajectory(rehearsal):
    from gace.structures.io import read_structures

    folder, _, _ = rehearsal
    exam, trained = (
        {atoms.info["ancestor"] for atoms in read_structures(folder / "data" / f"{name}.xyz")}
        for name in ("exam", "dataset")
    )
    assert not exam & trained


def test_labels_of_a_crystal_have_stress(rehearsal):
    from gace.structures.io import labels_of, read_structures

    folder, _, _ = rehearsal
    assert all(
        labels_of(atoms).stress is not None for atoms in read_structures(folder / "data" / "dataset.xyz")
    )


def test_registered_version_names_the_aiida_nodes(rehearsal):
    from gace_platform.registry.store import open_store
    from gace_platform.registry.versions import get_version

    folder, summary, _ = rehearsal
    version = get_version(open_store(folder / "mlflow").client(), "tiny", "champion")
    assert version.tags["node.workflow"] == summary["work_chain"]
    assert version.tags["node.committee"] == version.tags["aiida_uuid"]


def test_process_list_shows_the_steps_by_name(rehearsal):
    folder, _, _ = rehearsal
    shown = verdi(
        folder, "process", "list", "-a", "-P", "pk", "label", "state", "exit_status", "process_label"
    )
    assert "generation 1: train committee" in shown
    assert "generation 0: explore with the teacher" in shown
    assert "ActiveLearningWorkChain" in shown


GRAPH = """
import sys
from aiida import load_profile, orm
from aiida.tools.visualization import Graph
load_profile("tiny")
graph = Graph()
graph.recurse_descendants(sys.argv[1], annotate_links="both", include_process_inputs=True)
graph.recurse_ancestors(sys.argv[1], annotate_links="both", include_process_outputs=True)
print(graph.graphviz.source)
"""


def test_provenance_graph_shows_the_campaign(rehearsal):
    # what `verdi node graph generate` draws, up to the call of graphviz
    folder, summary, _ = rehearsal
    source = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GRAPH, summary["work_chain"]],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AIIDA_PATH": str(folder / ".aiida")},
    ).stdout
    for shown in (
        "CommitteeCalculation",
        "PotentialData",
        "DatasetData",
        "LabelCalculation",
        "draw_exam",
    ):
        assert shown in source


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_node_graph_is_drawn(rehearsal):
    folder, summary, _ = rehearsal
    verdi(folder, "node", "graph", "generate", summary["work_chain"])
    assert list(folder.glob("*.pdf"))


def test_potential_node_carries_the_version(rehearsal):
    folder, summary, _ = rehearsal
    shown = verdi(folder, "process", "show", summary["work_chain"])
    assert "mlflow_version" in shown
    assert "potential" in shown


def test_nothing_runs_on_after_the_end(rehearsal):
    folder, _, _ = rehearsal
    left = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            left.append(process.info["cmdline"])
    assert left == []


def test_status_of_a_finished_campaign(rehearsal, gace_campaign):
    folder, summary, _ = rehearsal
    done = gace_campaign("status", folder, "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["state"], found["kept"]) == ("finished", False)
    assert found["work_chain"] == summary["work_chain"]


def test_report_is_written_anew(rehearsal, gace_campaign):
    folder, summary, _ = rehearsal
    Path(summary["report"]).unlink()
    done = gace_campaign("report", folder)
    assert done.returncode == 0, done.stderr
    assert Path(summary["report"]).is_file()


def test_resuming_a_finished_campaign_changes_nothing(rehearsal, gace_campaign):
    folder, summary, _ = rehearsal
    done = gace_campaign("resume", folder, "--json")
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["dataset_hash"] == summary["dataset_hash"]
    assert again["champion_version"] == summary["champion_version"]


def test_running_into_an_existing_campaign_is_refused(rehearsal, gace_campaign, write_campaign, tmp_path):
    folder, _, _ = rehearsal
    done = gace_campaign("run", write_campaign(tmp_path), "--dir", folder)
    assert done.returncode == 2
    assert "gace campaign resume" in done.stderr
