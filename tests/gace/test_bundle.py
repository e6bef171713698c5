"""The bundle: what goes in comes out, and nothing damaged or foreign comes in."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import gace
from gace.commands.info import describe_bundle
from gace.errors import BundleError, InputError
from gace.files import sha256_file
from gace.linear.model import LinearACE
from gace.potential import bundle as module
from gace.potential.bundle import bundle_hash, load, read_config, save_bundle
from gace.potential.potential import Potential


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its checksum, as a forger would."""
    (folder / name).write_bytes(content)
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums[name] = sha256_file(folder / name)
    (folder / "checksums.json").write_text(json.dumps(checksums))


def rewrite_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder, "config.json", json.dumps({**config, **changes}).encode())


def test_predictions_survive_bit_for_bit(committee, bundle, ethanol):
    (before,) = committee.predict([ethanol], uncertainty=True)
    (after,) = load(bundle, device="cpu").predict([ethanol], uncertainty=True)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, two)


def test_everything_recorded_survives(committee, bundle):
    loaded = gace.load(bundle, device="cpu")
    assert loaded.elements == committee.elements
    assert loaded.cutoff == committee.cutoff
    assert loaded.isolated_atom_energies == committee.isolated_atom_energies
    assert loaded.level_of_theory == committee.level_of_theory
    assert loaded.metadata == committee.metadata
    assert loaded.uncertainty.n_calibration == 7


def test_members_may_differ_in_scale(make_model, tmp_path, ethanol):
    potential = Potential(
        [make_model(seed=0, scale=0.3), make_model(seed=1, scale=0.4)],
        isolated_atom_energies={"H": 0.0, "C": 0.0, "O": 0.0},
    )
    loaded = load(save_bundle(potential, tmp_path / "p"), device="cpu")
    assert loaded.predict([ethanol])[0].energy == potential.predict([ethanol])[0].energy


def test_equal_potentials_give_equal_bytes(committee, bundle, tmp_path):
    other = save_bundle(committee, tmp_path / "other")
    names = sorted(file.name for file in bundle.iterdir())
    assert names == ["MODEL_CARD.md", "checksums.json", "config.json", "model.safetensors", "uncertainty.npz"]
    assert [(bundle / name).read_bytes() for name in names] == [(other / name).read_bytes() for name in names]
    assert bundle_hash(bundle) == bundle_hash(other)


def test_config_names_elements_by_symbol_in_order(bundle):
    config = json.loads((bundle / "config.json").read_text())
    assert (config["kind"], config["format_version"]) == ("gace-potential", 1)
    assert config["elements"] == ["H", "C", "O"]
    assert config["n_members"] == 3


def test_single_precision_is_chosen_at_load(bundle, ethanol):
    loaded = load(bundle, device="cpu", dtype="float32")
    assert loaded.dtype == torch.float32
    exact = load(bundle, device="cpu").predict([ethanol])[0]
    # float32 carries 7 digits, of which sums over a hundred bonds lose one or two
    bound = 1e-5 * np.abs(exact.forces).max()
    np.testing.assert_allclose(loaded.predict([ethanol])[0].forces, exact.forces, rtol=0, atol=bound)


@pytest.mark.parametrize("way", ["loaded", "raised", "read in single precision and raised"])
def test_weights_in_single_precision_keep_the_symmetry_of_double(make_model, tmp_path, ethanol, way):
    """What is kept is rounded, the Clebsch–Gordan coefficients are not."""
    energies = {"H": 0.0, "C": 0.0, "O": 0.0}
    potential = Potential([make_model().float()], isolated_atom_energies=energies)
    if way != "raised":
        kept = save_bundle(potential, tmp_path / "p")
        potential = load(kept, device="cpu", dtype="float64" if way == "loaded" else "float32")
    potential = potential.to(dtype="float64")
    turned = ethanol.copy()
    turned.rotate(77, (0.3, -0.5, 0.8))
    first, second = potential.predict([ethanol, turned])
    rotation = np.linalg.lstsq(ethanol.positions, turned.positions, rcond=None)[0]
    scale = np.abs(first.forces).max()
    assert abs(second.energy - first.energy) < 1e-12 * max(abs(first.energy), scale)
    np.testing.assert_allclose(second.forces, first.forces @ rotation, rtol=0, atol=1e-12 * scale)


def test_members_of_different_kinds(make_model, tmp_path, ethanol):
    """The mean of a graph ACE and a linear ACE is kept, described and evaluated on every path."""
    graph = make_model()
    linear = LinearACE(elements=list(graph.elements), cutoff=graph.cutoff, size=20)
    with torch.no_grad():
        linear.coefficients.normal_(generator=torch.Generator().manual_seed(1))
    energies = {"H": 1.0, "C": 2.0, "O": 3.0}
    alone = [
        Potential([one], isolated_atom_energies=energies).predict([ethanol])[0] for one in (graph, linear)
    ]
    kept = save_bundle(Potential([graph, linear], isolated_atom_energies=energies), tmp_path / "p")
    for path in ("eager", "tabulated"):
        found = load(kept, device="cpu").evaluated_by(path).predict([ethanol])[0]
        assert found.energy == pytest.approx(np.mean([one.energy for one in alone]), abs=1e-8)
        np.testing.assert_allclose(found.forces, np.mean([one.forces for one in alone], axis=0), atol=1e-8)
    summary = describe_bundle(kept)
    assert summary["member_parameters"] == [
        sum(value.numel() for value in one.parameters()) for one in (graph, linear)
    ]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "uncertainty.npz", "MODEL_CARD.md"])
def test_one_changed_byte_is_noticed(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    with pytest.raises(BundleError, match="damaged"):
        load(bundle)


@pytest.mark.parametrize("name", ["model.safetensors", "checksums.json", "uncertainty.npz"])
def test_a_missing_file_is_noticed(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        load(bundle)


def test_an_unlisted_uncertainty_is_refused(single, committee, tmp_path):
    path = save_bundle(single, tmp_path / "single")
    np.savez(path / "uncertainty.npz", **committee.uncertainty.arrays())
    with pytest.raises(BundleError, match="not listed"):
        load(path)


def test_a_newer_format_is_refused(bundle):
    rewrite_config(bundle, format_version=2)
    with pytest.raises(BundleError, match="format version 2; this gace reads 1 to 1"):
        load(bundle)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(BundleError, match="not a potential of gace"):
        load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a potential bundle"):
        load(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        load(tmp_path / "absent")


def test_elements_in_another_order_are_refused(bundle):
    rewrite_config(bundle, elements=["C", "H", "O"])
    with pytest.raises(BundleError, match="elements of member 0"):
        load(bundle)


def test_parameters_of_another_architecture_are_refused(bundle):
    config = json.loads((bundle / "config.json").read_text())
    rewrite_config(bundle, architecture={**config["architecture"], "channels": 5})
    with pytest.raises(BundleError, match="does not fit its architecture"):
        load(bundle)


def test_an_unknown_hyperparameter_is_refused(bundle):
    config = json.loads((bundle / "config.json").read_text())
    rewrite_config(bundle, architecture={**config["architecture"], "novel_trick": True})
    with pytest.raises(BundleError, match="novel_trick"):
        load(bundle)


def test_pickled_arrays_are_not_executed(bundle, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    pickle.dumps(Trap())  # the trap works if anyone unpickles it
    np.savez(tmp_path / "evil.npz", format_version=np.array([Trap()], dtype=object))
    rewrite(bundle, "uncertainty.npz", (tmp_path / "evil.npz").read_bytes())
    with pytest.raises(BundleError, match=r"uncertainty\.npz"):
        load(bundle)
    assert not (tmp_path / "sprung").exists()


def test_saving_replaces_an_older_bundle(single, bundle):
    save_bundle(single, bundle)
    assert load(bundle, device="cpu").uncertainty is None
    assert [file.name for file in bundle.parent.iterdir()] == ["potential"]


def test_saving_never_replaces_something_else(single, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a potential bundle"):
        save_bundle(single, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_bundle(committee, bundle, monkeypatch):
    before = bundle_hash(bundle)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, "_write_flushed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(committee, bundle)
    assert bundle_hash(bundle) == before
    assert [file.name for file in bundle.parent.iterdir()] == ["potential"]


def test_old_formats_are_upgraded(bundle, monkeypatch):
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    monkeypatch.setitem(module.UPGRADES, 1, lambda config: {**config, "format_version": 2, "novelty": "none"})
    assert read_config(bundle)["novelty"] == "none"


def test_card_says_what_the_potential_may_claim(bundle):
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "functional PBE, basis def2-svp" in card
    assert "rescaled but not calibrated on 7 held-out structures" in card


def test_registry_uri_without_a_store_is_explained(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    with pytest.raises(InputError, match="does not exist"):
        load("models:/ethanol@champion")


def test_registry_that_is_not_named_is_asked_for_where_campaigns_keep_it(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"sqlite:///DIR/mlflow/mlflow\.db"):
        load("models:/ethanol@champion")


ABSENT = object()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        *((key, ABSENT, f"lacks '{key}'") for key in module.KEYS),
        ("n_members", 2, "'n_members' is 2, but 'member_architecture' describes 3"),
        ("n_members", 0, "'n_members' is 0"),
        ("n_members", True, "'n_members' cannot be true"),
        ("n_members", "3", "'n_members' cannot be \"3\""),
        ("member_architecture", [1, 2, 3], "'member_architecture' must hold one object per member"),
        (
            "isolated_atom_energies",
            {"H": None, "C": 1.0, "O": 2.0},
            "'isolated_atom_energies'.* of H is null",
        ),
        (
            "isolated_atom_energies",
            {"H": 0.0, "C": "x", "O": 2.0},
            "'isolated_atom_energies'.* of C is \"x\"",
        ),
        ("isolated_atom_energies", {"H": 0.0, "C": float("nan"), "O": 2.0}, "of C is NaN"),
        ("isolated_atom_energies", {"H": 0.0}, "no isolated-atom energy for C, O"),
        ("elements", ["H", "C", "Zz"], "'elements' names an unknown element \"Zz\""),
        ("elements", ["H", "C", 8], "'elements' names an unknown element 8"),
        ("cutoff", 4.0, "the cutoff of member 0 must be those of the bundle: 3.5 is not 4.0"),
        ("metadata", None, "'metadata' cannot be null"),
        ("member_weights", [1.0, 2.0], "weights of 3 members"),
        ("member_weights", "abc", "could not convert"),
    ],
)
def test_what_is_incomplete_or_written_by_hand_is_named(bundle, key, value, said):
    config = json.loads((bundle / "config.json").read_text())
    config = {**config, key: value}
    if value is ABSENT:
        del config[key]
    rewrite(bundle, "config.json", json.dumps(config).encode())
    with pytest.raises(BundleError, match=rf"config\.json.*{said}"):
        load(bundle, device="cpu")


def test_units_are_for_readers_only(bundle):
    config = json.loads((bundle / "config.json").read_text())
    del config["units"]
    rewrite(bundle, "config.json", json.dumps(config).encode())
    assert len(load(bundle, device="cpu").members) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"elements": ["H", "C", "Zz"]}, "the elements of member 0"),
        ({"elements": ABSENT}, "architecture of member 0 lacks 'elements'"),
        ({"cutoff": ABSENT}, "architecture of member 0 lacks 'cutoff'"),
        ({"n_radial": 0}, "member 0 does not fit its architecture"),
        ({"l_max": "x"}, "member 0 does not fit its architecture"),
    ],
)
def test_an_architecture_written_by_hand_is_named(bundle, changes, said):
    config = json.loads((bundle / "config.json").read_text())
    architecture = {**config["architecture"], **changes}
    kept = {key: value for key, value in architecture.items() if value is not ABSENT}
    rewrite_config(bundle, architecture=kept)
    with pytest.raises(BundleError, match=said):
        load(bundle, device="cpu")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_uncertainty_is_named(bundle, share):
    """Also where the checksum was made of what was left."""
    content = (bundle / "uncertainty.npz").read_bytes()
    rewrite(bundle, "uncertainty.npz", content[: int(share * len(content))])
    with pytest.raises(BundleError, match=r"uncertainty\.npz is not readable"):
        load(bundle, device="cpu")


@pytest.mark.parametrize(
    "config",
    sorted((Path(__file__).parents[2] / "benchmarks/potentials").glob("**/config.json")),
    ids=lambda one: one.parent.name,
)
def test_kept_potentials_load(config):
    assert load(config.parent, device="cpu").members
