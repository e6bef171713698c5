"""One test per exit code of each parser, on nodes made from files as a job leaves them."""

import json

import pytest

pytestmark = pytest.mark.aiida

KINDS = ["committee", "explore", "label", "register", "review", "select"]
DONE = {"exit_code": "0\n", "summary.out": '{"ok": true}\n', "progress.err": ""}


def failed(status, error="", message="", stderr=""):
    """Files of a job whose command failed."""
    files = {"exit_code": f"{status}\n", "summary.out": "", "progress.err": stderr}
    if error:
        files["error.json"] = {"error": error, "message": message}
    return files


@pytest.fixture
def structures(water, tmp_path):
    """A folder with the labelled structures under every name a parser asks for."""
    from gace.structures.io import write_structures

    for name in ("candidates", "selected", "labelled", "isolated_atoms"):
        write_structures(tmp_path / f"{name}.xyz", water)
    return tmp_path


# --- endings that all commands share ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_killed_with_its_shell(parse, kind):
    assert parse(kind, {"summary.out": "", "progress.err": "working"})[1] == 301


@pytest.mark.parametrize("kind", KINDS)
def test_killed_alone(parse, kind):
    assert parse(kind, failed(137))[1] == 301


@pytest.mark.parametrize("kind", KINDS)
def test_no_summary(parse, kind):
    assert parse(kind, {**DONE, "summary.out": ""})[1] == 302


@pytest.mark.parametrize("kind", KINDS)
def test_summary_cut_off(parse, kind):
    assert parse(kind, {**DONE, "summary.out": '{"ok": tr'})[1] == 303


@pytest.mark.parametrize("kind", KINDS)
def test_cluster_lost(parse, kind):
    assert parse(kind, failed(1, "ClusterError", "no scheduler"))[1] == 310


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory(parse, kind):
    assert parse(kind, failed(1, "OutOfMemoryError", "member 0"))[1] == 402


@pytest.mark.parametrize("kind", KINDS)
def test_store_locked(parse, kind):
    stderr = "Traceback\nsqlalchemy.exc.OperationalError: (sqlite3) database is locked\n[SQL: …]\n"
    assert parse(kind, failed(1, stderr=stderr))[1] == 311


@pytest.mark.parametrize("kind", KINDS)
def test_command_failed(parse, kind):
    assert parse(kind, failed(1, stderr="Traceback\nZeroDivisionError: division by zero\n"))[1] == 400


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input(parse, kind):
    assert parse(kind, failed(2, "InputError", "no such file: pool.xyz"))[1] == 401


# --- endings of one command ------------------------------------------------------------------------------


def test_training_diverged(parse):
    assert parse("committee", failed(1, "TrainingDivergedError", "loss is NaN"))[1] == 410


def test_too_few_members(parse):
    assert parse("committee", failed(1, "CommitteeError", "only 1 of 4"))[1] == 411


def test_bundle_missing(parse, tmp_path):
    assert parse("committee", DONE, tmp_path)[1] == 302


def test_bundle_unreadable(parse, tmp_path):
    (tmp_path / "potential").mkdir()
    assert parse("committee", DONE, tmp_path)[1] == 303


def test_committee_leaves_a_potential(parse, bundle, tmp_path):
    bundle.rename(tmp_path / "potential")
    outputs, status = parse("committee", DONE, tmp_path)
    assert status == 0
    assert outputs["potential"].elements == ["H", "O"]


def test_no_candidates(parse):
    assert parse("explore", failed(1, "ExplorationError", "no walker left a usable structure"))[1] == 420


def test_empty_candidates(parse, tmp_path):
    (tmp_path / "candidates.xyz").write_text("")
    assert parse("explore", DONE, tmp_path)[1] == 420


def test_candidates_missing(parse, tmp_path):
    assert parse("explore", DONE, tmp_path)[1] == 302


def test_candidates_unreadable(parse, tmp_path):
    (tmp_path / "candidates.xyz").write_text("3\nhalf a frame\nO 0 0\n")
    assert parse("explore", DONE, tmp_path)[1] == 303


def test_explore_leaves_candidates(parse, structures):
    outputs, status = parse("explore", DONE, structures)
    assert status == 0
    assert len(outputs["candidates"]) == 3


def test_nothing_selected(parse, tmp_path):
    (tmp_path / "selected.xyz").write_text("")
    assert parse("select", {**DONE, "selection.json": {"picks": []}}, tmp_path)[1] == 430


def test_reasons_of_the_selection_missing(parse, structures):
    assert parse("select", DONE, structures)[1] == 302


def test_select_leaves_picks(parse, structures):
    outputs, status = parse("select", {**DONE, "selection.json": {"picks": []}}, structures)
    assert status == 0
    assert len(outputs["selected"]) == 3


def test_isolated_atom_failed(parse):
    assert parse("label", failed(1, "LabelError", "H did not converge"))[1] == 440


def test_verdicts_missing(parse, structures):
    assert parse("label", DONE, structures)[1] == 302


def test_verdicts_unreadable(parse, structures):
    assert parse("label", {**DONE, "labels.json": "[1]"}, structures)[1] == 303


def test_label_leaves_labels_and_verdicts(parse, structures):
    table = {"structures": [{"key": "k", "verdict": "accepted"}]}
    outputs, status = parse("label", {**DONE, "labels.json": table}, structures)
    assert status == 0
    assert outputs["labelled"].n_labelled == 3
    assert outputs["verdicts"].get_dict() == table


def test_label_with_every_structure_quarantined_has_only_verdicts(parse, tmp_path):
    (tmp_path / "labelled.xyz").write_text("")
    outputs, status = parse("label", {**DONE, "labels.json": {"structures": []}}, tmp_path)
    assert status == 0
    assert "labelled" not in outputs


def test_review_without_suspects_named(parse):
    assert parse("review", {**DONE, "review.json": {"labels": 3}})[1] == 303


def test_review_leaves_suspects(parse):
    outputs, status = parse("review", {**DONE, "review.json": {"suspects": {"k": "other units?"}}})
    assert status == 0
    assert outputs["suspects"].get_dict() == {"k": "other units?"}


def test_registry_refused(parse):
    assert parse("register", failed(1, "RegistryError", "no"))[1] == 450


def test_version_missing(parse):
    assert parse("register", DONE)[1] == 303


def test_registered_potential_knows_its_version(parse, bundle):
    from aiida_gace.data.potential import PotentialData

    data = PotentialData(tree=bundle)
    summary = json.dumps({"version": 7, "uri": "models:/x/7"})
    outputs, status = parse("register", {**DONE, "summary.out": summary}, inputs={"potential": data})
    assert status == 0
    assert outputs["registration"]["version"] == 7
    assert data.base.extras.get("mlflow_version") == "7"


def test_reason_of_a_failure_is_in_the_exit_message(finished_job, tmp_path):
    from aiida.plugins import ParserFactory

    node = finished_job("label", failed(2, "InputError", "no basis 'def3-svp'; did you mean 'def2-svp'?"))
    _, function = ParserFactory("gace.label").parse_from_node(node, store_provenance=False)
    assert "did you mean 'def2-svp'?" in function.exit_message


def test_processor_time_of_a_command_that_counts_none(parse, structures):
    files = {**DONE, "times": "0m0.010s 0m0.020s\n1m2.500s 0m0.500s\n", "labels.json": {}}
    outputs, _ = parse("label", files, structures)
    assert outputs["summary"]["core_seconds"] == pytest.approx(63.03)
