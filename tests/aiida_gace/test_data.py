"""Data sets and potentials as AiiDA nodes."""

import numpy as np
import pytest

pytestmark = pytest.mark.aiida


def test_data_set_keeps_labels(aiida_profile, water):
    from aiida_gace.data.dataset import DatasetData
    from gace.structures.io import labels_of

    stored = DatasetData(water).store()
    labels = [labels_of(atoms) for atoms in stored.structures]
    assert [label.energy for label in labels] == [-10.0, -11.0, -12.0]
    np.testing.assert_allclose(labels[1].forces, water[1].positions * 0.1, atol=1e-7)


def test_data_set_answers_common_questions(aiida_profile, water):
    from aiida_gace.data.dataset import DatasetData

    bare = water[0].copy()
    bare.info.pop("REF_energy")
    data = DatasetData([*water, bare])
    assert (data.n_structures, data.n_labelled, data.elements, len(data)) == (4, 3, ["H", "O"], 4)


def test_hash_of_a_data_set_does_not_depend_on_order(aiida_profile, water):
    from aiida_gace.data.dataset import DatasetData

    assert DatasetData(water).dataset_hash == DatasetData(water[::-1]).dataset_hash


def test_hash_of_a_data_set_depends_on_labels(aiida_profile, water):
    from aiida_gace.data.dataset import DatasetData

    before = DatasetData(water).dataset_hash
    water[0].info["REF_energy"] += 1e-3
    assert DatasetData(water).dataset_hash != before


def test_data_set_from_a_file(aiida_profile, water, tmp_path):
    from aiida_gace.data.dataset import DatasetData
    from gace.structures.io import write_structures

    write_structures(tmp_path / "set.xyz", water)
    assert DatasetData(file=str(tmp_path / "set.xyz")).dataset_hash == DatasetData(water).dataset_hash


def test_data_set_refuses_two_sources(aiida_profile, water, tmp_path):
    from aiida_gace.data.dataset import DatasetData

    with pytest.raises(ValueError, match="from structures or from a file"):
        DatasetData(water, file=str(tmp_path / "set.xyz"))


def test_data_set_is_found_by_its_hash(aiida_profile, water):
    from aiida import orm

    from aiida_gace.data.dataset import DatasetData

    stored = DatasetData(water).store()
    query = orm.QueryBuilder().append(DatasetData, filters={"attributes.dataset_hash": stored.dataset_hash})
    assert stored.pk in [node.pk for node in query.all(flat=True)]


def test_potential_predicts_the_same_after_the_database(aiida_profile, bundle, water):
    import gace
    from aiida_gace.data.potential import PotentialData

    stored = PotentialData(tree=bundle).store()
    before = gace.load(bundle).predict(water)[2]
    after = stored.load().predict(water)[2]
    assert after.energy == before.energy
    np.testing.assert_array_equal(after.forces, before.forces)


def test_potential_answers_common_questions(aiida_profile, bundle):
    from aiida_gace.data.potential import PotentialData

    data = PotentialData(tree=bundle)
    assert (data.elements, data.n_members) == (["H", "O"], 1)


def test_potential_refuses_any_other_folder(aiida_profile, tmp_path):
    from aiida_gace.data.potential import PotentialData

    with pytest.raises(ValueError, match="not a potential bundle"):
        PotentialData(tree=tmp_path)


def test_nodes_describe_themselves_in_lists_and_graphs(aiida_profile, bundle, water):
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData

    potential = PotentialData(tree=bundle).store()
    potential.base.extras.set("mlflow_version", "4")
    assert DatasetData(water).get_description() == "3 structures, H O, 3 labelled"
    assert potential.get_description() == "1 members, H O, version 4"
