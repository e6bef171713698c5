"""The command ``gace models``: what it writes, prints and refuses."""

import json
from pathlib import Path

import pytest
import yaml

from gace.cli import main

pytestmark = pytest.mark.mlflow


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``gace`` in this process: exit code, standard output, standard error."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def config(tmp_path, make_bundle, exam_file):
    """A registration with an exam that the bundle passes."""
    bundle = make_bundle()
    content = {
        "name": "ethanol",
        "generation": 0,
        "bundle": str(bundle.relative_to(tmp_path)),
        "store": "mlflow",
        "aiida_uuid": "u-1",
        "n_labels": 6,
        "metrics": {"forces_mae": 12.5},
        "exam": {"structures": "exam.xyz", "criteria": {"drift_steps": 5, "bootstrap": 100}},
    }
    (tmp_path / "register.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "register.yaml"


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_whole_life_of_a_version(run, config, tmp_path):
    store = tmp_path / "mlflow"
    code, out, _ = run("models", "register", config, "--out", tmp_path / "out", "--json")
    summary = last_json(out)
    assert code == 0
    assert (summary["exam"], summary["promoted"], summary["champion"]) == ("passed", True, "1")
    assert json.loads((tmp_path / "out" / "registration.json").read_text()) == summary
    assert json.loads((tmp_path / "out" / "exam.json").read_text())["verdict"] == "passed"

    again = last_json(run("models", "register", config, "--out", tmp_path / "out2", "--json")[1])
    assert again == {**summary, "created": False}

    rows = last_json(run("models", "list", "--store", store, "--json")[1])["models"]
    assert [(row["version"], row["champion"], row["exam"]) for row in rows] == [("1", True, "passed")]

    shown = last_json(run("models", "show", "ethanol@champion", "--store", store, "--json")[1])
    assert shown["aiida_uuid"] == "u-1"
    assert shown["metrics"]["forces_mae"] == 12.5

    code, out, _ = run("models", "verify", "ethanol/1", "--store", store, "--json")
    assert (code, last_json(out)["ok"]) == (0, True)

    with (Path(shown["bundle"]) / "config.json").open("a") as stream:
        stream.write(" ")
    code, out, err = run("models", "verify", "ethanol/1", "--store", store, "--json")
    assert (code, last_json(out)["ok"]) == (1, False)
    assert err.count("\n") == 1


def test_a_loop_begun_anew_gets_its_verdicts_back(run, config, make_bundle, tmp_path):
    """Generation 1 must not sit the exam again, against the champion of generation 2."""
    bundles = {1: make_bundle(1), 2: make_bundle(0)}
    answers = []
    for loop in (1, 2):
        for generation, bundle in bundles.items():
            values = {
                "generation": generation, "bundle": bundle, "known_by": "generation",
                "aiida_uuid": f"u-{loop}-{generation}", "exam.criteria.drift_steps": 0,
                "exam.criteria.strains": [], "exam.criteria.max_forces_mae": "null",
            }  # fmt: skip
            sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
            out = run("models", "register", config, "--out", tmp_path / "out", "--json", *sets)[1]
            answers.append(last_json(out))
    told = [[one[key] for key in ("version", "exam", "promoted", "champion", "created")] for one in answers]
    assert told[:2] == [["1", "passed", True, "1", True], ["2", "passed", True, "2", True]]
    assert told[2:] == [["1", "passed", True, "2", False], ["2", "passed", True, "2", False]]
    assert answers[2]["exam_result"] == answers[0]["exam_result"]


def test_failed_exam_is_a_result(run, config, tmp_path):
    code, out, _ = run(
        "models", "register", config, "--out", tmp_path / "out", "--json",
        "--set", "exam.criteria.max_forces_mae=1e-20", "--set", "exam.criteria.drift_steps=0",
    )  # fmt: skip
    summary = last_json(out)
    assert code == 0
    assert (summary["exam"], summary["promoted"], summary["champion"]) == ("failed", False, None)
    assert "force error" in summary["exam_reason"]
    code, _, err = run("models", "promote", "ethanol/1", "--store", tmp_path / "mlflow")
    assert code == 2
    assert "failed its exam" in err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generaton=1", "did you mean 'generation'"),
        ("generation=-1", "generation"),
        ("bundle=nowhere", "not a potential bundle"),
        ("name=a/b", "name"),
        ("exam.structures=none.xyz", "no such file"),
        ("exam.criteria.bootstrap=1", "bootstrap"),
    ],
)
def test_bad_configuration_is_one_line(run, config, tmp_path, override, words):
    code, _, err = run("models", "register", config, "--out", tmp_path / "out", "--set", override)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mlflow").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--store", "nowhere"),
        ("list",),
        ("show", "ethanol", "--store", "nowhere"),
        ("verify", "models:/ethanol@best", "--store", "nowhere"),
        ("promote", "/3", "--store", "nowhere"),
        ("examine", "nowhere/1", "none.xyz"),
    ],
)
def test_bad_arguments_are_one_line(run, arguments):
    code, _, err = run("models", *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_promotion_by_the_alias_names_the_version(run, config, tmp_path):
    run("models", "register", config, "--out", tmp_path / "out")
    promote = ("models", "promote", "ethanol@champion", "--store", tmp_path / "mlflow")
    assert "is now version 1 (before: 1)" in run(*promote)[1]
    assert last_json(run(*promote, "--json")[1])["champion"] == "1"


def test_unwritable_store_is_one_line(run, config, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(
        "models", "register", config, "--out", tmp_path / "o", "--store", tmp_path / "file" / "m"
    )
    assert code == 2
    assert "cannot create the MLflow store" in err


def test_exam_of_a_folder(run, make_bundle, exam_file, tmp_path):
    (tmp_path / "criteria.yaml").write_text("drift_steps: 0\nmax_forces_mae: 1.0\nbootstrap: 100\n")
    code, out, _ = run(
        "models", "examine", make_bundle(), exam_file, "--criteria", tmp_path / "criteria.yaml", "--json"
    )
    assert code == 0
    assert [condition["met"] for condition in last_json(out)["conditions"]] == [True] * 4
