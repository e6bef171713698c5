"""The campaign file: what it refuses, and what follows from it."""

import pytest
import yaml

from gace.errors import InputError
from gace_workflows.campaign.file import dump_campaign, load_campaign, parse_campaign


@pytest.fixture
def file(tmp_path, write_campaign):
    """A tiny campaign file; sections may be replaced."""

    def write(**sections):
        return write_campaign(tmp_path, **sections)

    return write


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"budjet": {"labels": 9}}, "unknown key 'budjet'; did you mean 'budget'?"),
        ({"system": {"structur": "copper.xyz"}}, "did you mean 'structure'?"),
        ({"training": {"max_epoch": 3}}, "did you mean 'max_epochs'?"),
        ({"exploration": {"walker": 3}}, "did you mean 'walkers'?"),
        ({"selection": {"reserve": 0.1}}, "did you mean 'reserve_fraction'?"),
        ({"reference": {"engine": "teacher", "calculator": "emt", "methd": 1}}, "unknown key 'reference"),
        ({"exam": {"structures": 3, "criteria": {"max_force_mae": 1}}}, "did you mean 'max_forces_mae'?"),
        ({"budget": {"labels": -5}}, "budget.labels"),
        ({"budget": {"labels": 7}}, "does not cover the first labels and the exam (8)"),
        ({"generations": 2}, "labels_per_generation is needed"),
        ({"labels_per_generation": 3}, "contradicts a list of generations"),
        (
            {"reference": {"engine": "teacher", "calculator": "emt", "charge": 1}},
            "reference.charge (1) contradicts system.charge (0)",
        ),
        (
            {
                "system": {"structure": "copper.xyz", "spin": 0},
                "reference": {"engine": "teacher", "calculator": "emt", "spin": 2},
            },
            "reference.spin (2) contradicts system.spin (0)",
        ),
        ({"campaign": "no spaces please"}, "campaign"),
        ({"cluster": {"workers": 0}}, "cluster.workers"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_refused_with_one_line_that_names_the_key(file, sections, message):
    with pytest.raises(InputError) as refused:
        load_campaign(file(**sections))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_section_is_named(tmp_path):
    (tmp_path / "campaign.yaml").write_text("campaign: x\n")
    with pytest.raises(InputError, match="missing key 'system'"):
        load_campaign(tmp_path / "campaign.yaml")


def test_geometry_is_found_beside_the_file(file, tmp_path):
    assert load_campaign(file()).system.files == [tmp_path / "copper.xyz"]


def test_bundle_of_a_teacher_is_found_beside_the_file(file, tmp_path, monkeypatch):
    teacher = {"calculator": "gace", "kwargs": {"bundle": "potential"}}
    path = file(reference={"engine": "teacher", **teacher}, initial={"labels": 5, "teacher": teacher})
    monkeypatch.chdir("/")
    campaign = load_campaign(path)
    assert campaign.reference.kwargs["bundle"] == str(tmp_path / "potential")
    assert campaign.initial.teacher.kwargs["bundle"] == str(tmp_path / "potential")
    assert parse_campaign(dump_campaign(campaign)) == campaign


def test_override_from_the_command_line(file):
    assert load_campaign(file(), ("budget.labels=20",)).budget.labels == 20


def test_batches_end_with_the_budget(file):
    campaign = load_campaign(file(budget={"labels": 15}, generations=[{"labels": 4}] * 3))
    assert campaign.batches == [4, 3]


def test_number_of_generations_with_one_size(file):
    campaign = load_campaign(file(budget={"labels": 50}, generations=3, labels_per_generation=6))
    assert campaign.batches == [6, 6, 6]


def test_campaign_survives_the_database(file):
    campaign = load_campaign(file())
    assert parse_campaign(dump_campaign(campaign)) == campaign


def test_frozen_copy_holds_only_what_the_file_says(file):
    written = yaml.safe_load(file().read_text())
    frozen = dump_campaign(load_campaign(file()))
    assert {key: frozen[key] for key in written if key != "system"} == {
        key: written[key] for key in written if key != "system"
    }
