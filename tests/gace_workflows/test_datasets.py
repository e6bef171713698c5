"""Operations on data sets that the loop records in AiiDA."""

import numpy as np
import pytest

pytestmark = pytest.mark.aiida


@pytest.fixture(scope="module")
def aiida_profile():
    from aiida.manage.configuration import load_profile
    from aiida.storage.sqlite_temp import SqliteTempBackend

    return load_profile(SqliteTempBackend.create_profile("gace-workflow-tests"), allow_switch=True)


@pytest.fixture
def frames():
    from ase.build import molecule

    found = []
    for number in range(12):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=number)
        atoms.positions = np.round(atoms.positions, 8)
        atoms.info.update(structure_id=f"w{number}", teacher_energy=-1.0 * number)
        atoms.arrays["teacher_forces"] = atoms.positions * 0.5
        found.append(atoms)
    return found


def names(data):
    return [atoms.info["structure_id"] for atoms in data.get_structures()]


def dataset(structures):
    from aiida_gace.data.dataset import DatasetData

    return DatasetData(structures).store()


def test_exam_does_not_depend_on_the_order_of_the_candidates(aiida_profile, frames):
    from aiida.orm import Int

    from gace_workflows.datasets import draw_exam

    one = draw_exam(dataset(frames), Int(4), Int(1))
    other = draw_exam(dataset(frames[::-1]), Int(4), Int(1))
    assert names(one) == names(other)
    assert len(one) == 4


def test_exam_depends_on_the_seed(aiida_profile, frames):
    from aiida.orm import Int

    from gace_workflows.datasets import draw_exam

    draws = {tuple(names(draw_exam(dataset(frames), Int(4), Int(seed)))) for seed in range(3)}
    assert len(draws) == 3


def test_teacher_labels_become_labels(aiida_profile, frames):
    from aiida.orm import Int

    from gace.structures.io import labels_of
    from gace_workflows.datasets import with_teacher_labels

    atoms = with_teacher_labels(dataset(frames), Int(5), Int(1)).get_structures()[0]
    labels = labels_of(atoms)
    assert labels.energy == atoms.info["teacher_energy"]
    np.testing.assert_allclose(labels.forces, atoms.positions * 0.5, atol=1e-7)


def test_exam_and_training_set_part_again(aiida_profile, frames):
    from gace_workflows.datasets import only_exam, without_exam

    for atoms in frames[:3]:
        atoms.info["purpose"] = "exam"
    labelled = dataset(frames)
    assert sorted(names(only_exam(labelled)) + names(without_exam(labelled))) == sorted(
        f"w{n}" for n in range(12)
    )
    assert names(only_exam(labelled)) == ["w0", "w1", "w2"]


def test_structure_in_both_sets_counts_once(aiida_profile, frames):
    from gace_workflows.datasets import together

    assert names(together(dataset(frames[:5]), dataset(frames[3:8]))) == [f"w{n}" for n in range(8)]


def test_batches_share_the_structures_in_turn(aiida_profile, frames):
    from aiida.orm import Int

    from gace_workflows.labelling import split

    batches = split(dataset(frames[:5]), Int(2))
    assert [names(batches[name]) for name in sorted(batches)] == [["w0", "w2", "w4"], ["w1", "w3"]]


def test_provenance_of_a_drawn_exam_is_recorded(aiida_profile, frames):
    from aiida.orm import Int

    from gace_workflows.datasets import draw_exam

    assert draw_exam(dataset(frames), Int(2), Int(1)).creator.process_label == "draw_exam"
