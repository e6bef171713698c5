"""Registration, versions, the alias, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import gace
from gace.errors import BundleError, InputError
from gace_platform.exam import Criteria
from gace_platform.registry.config import ExamSection, RegisterConfig
from gace_platform.registry.promotion import examine_version, promote_if_due
from gace_platform.registry.register import register_generation
from gace_platform.registry.runs import MAX_POINTS, find_runs
from gace_platform.registry.store import ensure_store, open_store
from gace_platform.registry.versions import all_versions, bundle_of, champion, get_version, promote, verify

pytestmark = pytest.mark.mlflow

QUICK = Criteria(drift_steps=0, bootstrap=100)


@pytest.fixture(scope="session")
def cold_store(tmp_path_factory):
    """A store made once: the tables take seconds."""
    return ensure_store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def store(cold_store, monkeypatch):
    """The session's store; each test uses a model name of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return cold_store


@pytest.fixture
def name(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def committee(tmp_path):
    """What `gace committee train` leaves behind, with long metrics."""
    for member in range(2):
        folder = tmp_path / "committee" / "members" / str(member)
        folder.mkdir(parents=True)
        rows = [
            {"epoch": epoch, "loss": 1 / (epoch + 1), "validation": {"forces_mae": 90.0 / (epoch + 1)}}
            for epoch in range(750)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"epoch": 75')
    summary = {"members": [{"core_seconds": 7.5}, {"core_seconds": 8.5}]}
    (tmp_path / "committee" / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "committee"


def statuses(store, name):
    client = store.client()
    experiment = client.get_experiment_by_name(name)
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


def test_version_carries_its_identity(store, name, make_bundle):
    config = RegisterConfig(
        name=name, generation=3, bundle=make_bundle(), aiida_uuid="u-1", nodes={"dataset": "u-2"}
    )
    made = register_generation(store, config)
    tags = get_version(store.client(), name, made.version).tags
    assert tags["aiida_uuid"] == "u-1"
    assert tags["node.dataset"] == "u-2"
    assert tags["generation"] == "3"
    assert tags["dataset_hash"] == "d1"
    assert tags["content_hash"] == made.content_hash


def test_second_call_finds_the_version_and_makes_no_run(store, name, make_bundle):
    config = RegisterConfig(name=name, generation=0, bundle=make_bundle(), aiida_uuid="u")
    first, second = register_generation(store, config), register_generation(store, config)
    assert (first.created, second.created) == (True, False)
    assert first.version == second.version
    assert statuses(store, name) == ["FINISHED"]


def test_same_bundle_from_another_node_is_another_version(store, name, make_bundle):
    bundle = make_bundle()
    versions = [
        register_generation(
            store, RegisterConfig(name=name, generation=0, bundle=bundle, aiida_uuid=uuid)
        ).version
        for uuid in ("a", "b")
    ]
    assert versions == ["1", "2"]


def test_in_a_campaign_the_same_bundle_from_another_node_is_the_same_version(store, name, make_bundle):
    bundle = make_bundle()
    for uuid in ("a", "b", "c", "b"):
        config = RegisterConfig(
            name=name, generation=1, bundle=bundle, known_by="generation",
            aiida_uuid=uuid, nodes={"workflow": f"w-{uuid}", "dataset": "d"},
        )  # fmt: skip
        assert register_generation(store, config).version == "1"
    tags = get_version(store.client(), name, "1").tags
    assert (tags["aiida_uuid"], tags["also.aiida_uuid"]) == ("a", "b, c")
    assert (tags["node.workflow"], tags["also.node.workflow"]) == ("w-a", "w-b, w-c")
    assert "also.node.dataset" not in tags
    later = config.model_copy(update={"generation": 2})
    assert register_generation(store, later).version == "2"


def test_run_of_a_generation_holds_one_child_per_member(store, name, make_bundle, committee):
    config = RegisterConfig(
        name=name, generation=2, bundle=make_bundle(), committee=committee, n_labels=24,
        metrics={"forces_mae_reserve": 41.5}, parameters={"n_train": 20},
    )  # fmt: skip
    made = register_generation(store, config)
    client = store.client()
    parent = client.get_run(made.run_id)
    assert parent.data.params == {"generation": "2", "n_labels": "24", "n_train": "20"}
    assert client.get_metric_history(made.run_id, "forces_mae_reserve")[0].step == 24
    children = find_runs(client, parent.info.experiment_id, {"mlflow.parentRunId": made.run_id})
    assert sorted(child.data.tags["member"] for child in children) == ["0", "1"]
    assert sorted(child.data.metrics["core_seconds"] for child in children) == [7.5, 8.5]


def test_long_curves_are_thinned_with_both_ends_kept(store, name, make_bundle, committee):
    made = register_generation(
        store, RegisterConfig(name=name, generation=2, bundle=make_bundle(), committee=committee)
    )
    client = store.client()
    experiment = client.get_run(made.run_id).info.experiment_id
    child = find_runs(client, experiment, {"mlflow.parentRunId": made.run_id})[0]
    curve = client.get_metric_history(child.info.run_id, "validation/forces_mae")
    steps = sorted(point.step for point in curve)
    assert len(steps) == MAX_POINTS
    assert (steps[0], steps[-1]) == (0, 749)


def test_half_made_runs_are_marked_killed(store, name, make_bundle, committee, monkeypatch):
    config = RegisterConfig(name=name, generation=0, bundle=make_bundle(), committee=committee)
    with monkeypatch.context() as patched:
        patched.setattr("gace_platform.registry.register._make_version", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            register_generation(store, config)
    made = register_generation(store, config)
    assert made.created
    assert statuses(store, name) == ["FINISHED"] * 3 + ["KILLED"] * 3


@pytest.mark.parametrize(
    ("side", "moment"),
    [
        ("before", "mlflow.pyfunc.log_model"),
        ("after", "mlflow.pyfunc.log_model"),
        ("after", "mlflow.register_model"),
    ],
)
def test_sigkill_between_steps_leaves_one_version(store, name, make_bundle, side, moment):
    bundle = make_bundle()
    script = f"""
        import os, signal, mlflow, mlflow.pyfunc
        from gace_platform.registry.config import RegisterConfig
        from gace_platform.registry.register import register_generation
        from gace_platform.registry.store import open_store
        original = {moment}
        def killed(*args, **kwargs):
            if {side!r} == "after":
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        {moment} = killed
        config = RegisterConfig(name={name!r}, generation=1, bundle={str(bundle)!r}, aiida_uuid="u")
        register_generation(open_store({str(store.folder)!r}), config)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    config = RegisterConfig(name=name, generation=1, bundle=bundle, aiida_uuid="u")
    made = register_generation(store, config)
    assert [str(version.version) for version in all_versions(store.client(), name)] == ["1"]
    assert store.client().get_run(made.run_id).info.status == "FINISHED"
    assert "RUNNING" not in statuses(store, name)


def test_damaged_bundle_is_refused(store, name, make_bundle):
    bundle = make_bundle()
    with (bundle / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        register_generation(store, RegisterConfig(name=name, generation=0, bundle=bundle))


def test_version_without_exam_cannot_be_promoted(store, name, make_bundle):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    with pytest.raises(InputError, match="has not sat the exam"):
        promote(store, name, "1")
    assert champion(store.client(), name) is None


def test_failed_exam_does_not_move_the_alias(store, name, make_bundle, exam_file):
    for seed in (0, 1):
        register_generation(store, RegisterConfig(name=name, generation=seed, bundle=make_bundle(seed)))
    assert examine_version(store, name, "1", exam_file, QUICK).passed
    assert promote_if_due(store, name, "1")
    assert not examine_version(store, name, "2", exam_file, QUICK).passed
    with pytest.raises(InputError, match="failed its exam"):
        promote_if_due(store, name, "2")
    assert champion(store.client(), name) == "1"


def test_repeated_registration_does_not_turn_the_alias_back(store, name, make_bundle, exam_file):
    for generation in range(2):
        bundle = make_bundle(0, generation=generation)
        register_generation(store, RegisterConfig(name=name, generation=generation, bundle=bundle))
        version = str(generation + 1)
        assert examine_version(store, name, version, exam_file, QUICK).passed
        assert promote_if_due(store, name, version)
    promote_if_due(store, name, "1")
    assert champion(store.client(), name) == "2"


def test_champion_moved_back_on_purpose_stays(store, name, make_bundle, exam_file, monkeypatch):
    for generation in range(2):
        bundle = make_bundle(0, generation=generation)
        register_generation(store, RegisterConfig(name=name, generation=generation, bundle=bundle))
        examine_version(store, name, str(generation + 1), exam_file, QUICK)
        promote_if_due(store, name, str(generation + 1))
    # times are kept to the second
    monkeypatch.setattr("gace_platform.registry.versions.time.time", lambda: 4e9)
    assert promote(store, name, "1") == "2"
    assert promote_if_due(store, name, "2")
    assert champion(store.client(), name) == "1"


def test_exam_is_told_by_the_run_and_the_version(store, name, make_bundle, exam_file):
    config = RegisterConfig(name=name, generation=0, bundle=make_bundle(1), n_labels=12)
    made = register_generation(store, config)
    result = examine_version(store, name, "1", exam_file, QUICK)
    client = store.client()
    point = client.get_metric_history(made.run_id, "exam/forces_mae")[0]
    assert (point.step, point.value) == (12, result.errors.forces_mae.value)
    assert "force MAE" in get_version(client, name, "1").description


def test_first_verdict_stands(store, name, make_bundle, exam_file):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    first = examine_version(store, name, "1", exam_file, QUICK)
    assert examine_version(store, name, "1", exam_file, QUICK) == first


def test_verify_finds_a_changed_file(store, name, make_bundle):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    assert verify(store, name, "1").ok
    client = store.client()
    stored = bundle_of(client, get_version(client, name, "1"))
    with (stored / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    check = verify(store, name, "1")
    assert not check.ok
    assert "model.safetensors" in check.detail


def test_verify_finds_a_replaced_bundle(store, name, make_bundle):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle(0)))
    client = store.client()
    stored = bundle_of(client, get_version(client, name, "1"))
    for file in make_bundle(1).iterdir():
        (stored / file.name).write_bytes(file.read_bytes())
    assert "replaced" in verify(store, name, "1").detail


def test_gace_loads_the_champion_by_its_uri(
    store, name, make_bundle, make_potential, exam_file, ethanol, monkeypatch
):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    examine_version(store, name, "1", exam_file, QUICK)
    promote(store, name, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    loaded = gace.load(f"models:/{name}@champion").predict([ethanol])[0]
    assert loaded.energy == make_potential(0).predict([ethanol])[0].energy


def test_pyfunc_predicts_without_pickle(store, name, make_bundle, make_potential, ethanol, monkeypatch):
    import mlflow

    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    request = {"symbols": list(ethanol.symbols), "positions": ethanol.positions.tolist()}
    water = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]}
    answer = model.predict([request, water])
    expected = make_potential(0).predict([ethanol])[0]
    assert answer[0]["energy"] == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(answer[0]["forces"], expected.forces, atol=1e-9)
    assert np.shape(answer[1]["forces"]) == (3, 3)


def test_scoring_server_takes_inputs(store, name, make_bundle, make_potential, ethanol, monkeypatch):
    import mlflow
    from mlflow.pyfunc import scoring_server

    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    body = {"inputs": [{"symbols": list(ethanol.symbols), "positions": ethanol.positions.tolist()}]}
    schema = model.metadata.get_input_schema()
    answer = scoring_server.invocations(json.dumps(body), "application/json", model, schema)
    assert answer.status == 200, answer.response
    energy = json.loads(answer.response)["predictions"][0]["energy"]
    assert energy == pytest.approx(make_potential(0).predict([ethanol])[0].energy, abs=1e-9)


def test_model_holds_no_pickle(store, name, make_bundle):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    client = store.client()
    model = bundle_of(client, get_version(client, name, "1")).parent.parent
    suffixes = {path.suffix for path in model.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".py", ".txt", ".yaml", ".json", ".safetensors", ".npz", ".md"}


def test_run_id_of_the_environment_is_not_used(store, name, make_bundle, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    assert statuses(store, name) == ["FINISHED"]
    assert os.environ["MLFLOW_RUN_ID"] == "0" * 32


def test_unknown_model_names_the_nearest(store, name, make_bundle):
    register_generation(store, RegisterConfig(name=name, generation=0, bundle=make_bundle()))
    with pytest.raises(InputError, match=f"did you mean '{name}'"):
        get_version(store.client(), name + "x", "1")


def test_two_processes_make_one_cold_store(tmp_path):
    script = (
        "import sys; from gace_platform.registry.store import ensure_store; "
        "print(len(ensure_store(sys.argv[1]).client().search_experiments()))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "mlflow")], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].split()[-1] for process in running] == [b"1", b"1"]


def test_folder_without_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no MLflow store"):
        open_store(tmp_path)


def test_path_that_is_no_uri_is_refused(tmp_path):
    with pytest.raises(InputError, match="'#' stands in the path"):
        ensure_store(tmp_path / "run #1")


def test_foreign_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, however long it is" * 50)
    with pytest.raises(InputError, match="not an MLflow database"):
        open_store(tmp_path)


def test_exam_section_paths_follow_the_file(tmp_path):
    config = RegisterConfig(
        name="a", generation=0, bundle="b", exam=ExamSection(structures="e.xyz")
    ).relative_to(tmp_path)
    assert config.exam.structures == tmp_path / "e.xyz"
    assert config.bundle == tmp_path / "b"


@pytest.mark.parametrize("delay", [0.3, 0.8, 1.3])
def test_a_kill_while_tables_are_made_loses_nothing(tmp_path, delay):
    """MLflow cannot go on with tables that are half made."""
    code = "import sys; from gace_platform.registry.store import ensure_store; ensure_store(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    unfinished = tmp_path / ".mlflow.db.unfinished"
    deadline = time.monotonic() + 120
    while not unfinished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ensure_store(tmp_path).client().search_experiments() is not None
    assert sorted(path.name for path in tmp_path.glob("*mlflow.db*")) == ["mlflow.db"]
