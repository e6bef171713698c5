"""From the campaign file to the configuration of each step."""

import pytest

from gace_workflows import recipes
from gace_workflows.campaign.checks import check_recipes
from gace_workflows.campaign.file import load_campaign
from gace_workflows.campaign.folder import CampaignFolder

PLACES = CampaignFolder.at("somewhere").places()


@pytest.fixture
def campaign(tmp_path, write_campaign):
    def load(**sections):
        return load_campaign(write_campaign(tmp_path, **sections))

    return load


def test_every_step_accepts_its_recipe(campaign):
    check_recipes(campaign(pretraining={"structures": 5}, final_training={"max_epochs": 30}))


def test_first_exploration_takes_the_general_settings_and_its_own(campaign):
    section = {"labels": 5, "teacher": {"calculator": "emt"}, "exploration": {"steps": 9}}
    config = recipes.first_exploration(campaign(initial=section), PLACES, "look_around")
    assert (config["steps"], config["walkers"]) == (9, 2)


def test_charge_reaches_the_teacher(campaign):
    section = {"structure": "copper.xyz", "charge": 1, "spin": 2}
    config = recipes.first_exploration(campaign(system=section), PLACES, "look_around")
    assert (config["teacher"]["charge"], config["teacher"]["spin"]) == (1, 2)


def test_walkers_for_the_exam_have_seeds_of_their_own(campaign):
    seeds = {
        recipes.first_exploration(campaign(), PLACES, step)["seed"]
        for step in ("look_around", "look_for_exam")
    }
    assert len(seeds) == 2


def test_seeds_differ_from_turn_to_turn_and_not_from_call_to_call(campaign):
    one = campaign()
    seeds = [recipes.committee(one, PLACES, turn, False)["seed"] for turn in (1, 2, 1)]
    assert seeds[0] == seeds[2] != seeds[1]


def test_last_training_takes_the_settings_for_the_end(campaign):
    one = campaign(training={"max_epochs": 10, "batch_size": 2}, final_training={"max_epochs": 99})
    assert recipes.committee(one, PLACES, 1, final=False)["training"]["max_epochs"] == 10
    assert recipes.committee(one, PLACES, 2, final=True)["training"] == {"max_epochs": 99, "batch_size": 2}


def test_quarantined_structures_are_not_selected_again(campaign):
    key = "0" * 16 + "-" + "1" * 16
    assert recipes.selection(campaign(), 1, 4, [key])["exclude_keys"] == [key]


def test_metrics_of_a_registration_are_finite_numbers(campaign):
    summary = {"a": 1, "b": {"c": 2.5, "d": float("inf"), "e": "text"}, "f": [1], "g": True, "h": None}
    assert recipes.flat_numbers(summary) == {"a": 1.0, "b.c": 2.5}


def exam(error, champion=True):
    return {"champion": champion, "forces_mae": error}


@pytest.mark.parametrize(
    ("target", "history", "batches", "budget", "condition"),
    [
        (None, [exam(500.0)], 1, 10, None),
        (None, [exam(500.0)], 0, 10, "batches labelled"),
        (None, [exam(500.0)], 1, 0, "budget spent"),
        (100.0, [exam(120.0)], 1, 10, None),
        (100.0, [exam(120.0), exam(90.0)], 1, 10, "force error"),
        (100.0, [exam(90.0, champion=False)], 1, 10, None),
    ],
)
def test_stop_rule(campaign, target, history, batches, budget, condition):
    found = recipes.stop_verdict(campaign(stop={"force_mae": target}), history, batches, budget)
    assert (found["stopped"], found["condition"]) == (condition is not None, condition)


def test_stop_rule_says_what_is_missing(campaign):
    found = recipes.stop_verdict(campaign(stop={"force_mae": 50.0}), [exam(80.0)], 2, 10)
    assert "80.0 meV/Å, 50 are asked for" in found["detail"]


def test_a_registration_is_known_by_its_generation_since_a_new_loop_has_new_jobs(campaign):
    nodes = {"workflow": "w", "committee": "c"}
    config = recipes.registration(campaign(), PLACES, 2, 8, nodes, {})
    assert (config["aiida_uuid"], config["known_by"], config["generation"]) == ("c", "generation", 2)


def test_a_version_found_again_counts_as_the_champion_it_was(campaign):
    found = {"version": "1", "exam": "passed", "promoted": True, "champion": "2"}
    result = {"errors": {"forces_mae": {"value": 90.0}}}
    entry = recipes.exam_result({**found, "exam_result": result}, 1, 8)
    stop = recipes.stop_verdict(campaign(stop={"force_mae": 100.0}), [entry], 1, 10)
    assert stop["condition"] == "force error"
    assert not recipes.became_champion(found)
    assert "now champion" not in recipes.exam_line(found, 1)
