"""What a potential expects of structures, in the form the audit wants."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from gace_platform.labelling.audit import Prediction


def expect(potential: str, structures: Sequence[Atoms]) -> list[Prediction]:
    """Energy, forces, stress and their error bars by a bundle folder or a ``models:`` address.

    Raises:
        BundleError: the bundle is damaged.
        InputError: a structure holds an element that the potential does not know.
    """
    import gace

    loaded = gace.load(potential)
    known = loaded.uncertainty is not None
    return [
        Prediction(one.energy, one.forces, one.stress, one.energy_std or 0.0, one.forces_std)
        for one in loaded.predict(structures, uncertainty=known)
    ]
