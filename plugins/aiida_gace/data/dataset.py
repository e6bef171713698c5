"""A data set of (labelled) structures as an AiiDA node: extended XYZ plus what one asks most often."""

from __future__ import annotations

import io
import typing as t
from collections.abc import Sequence
from pathlib import Path

from aiida.orm import SinglefileData

from gace.structures.identity import dataset_hash
from gace.structures.io import labels_of, read_structures, write_structures

if t.TYPE_CHECKING:
    from ase import Atoms

FILENAME = "structures.xyz"


class DatasetData(SinglefileData):
    """Structures, with or without labels, in extended XYZ.

    AiiDA's ``StructureData`` cannot hold labels and its trajectories are always periodic, so a data
    set is kept as the file every command of ``gace`` reads and writes.

    Attributes in the database: ``n_structures``, ``n_labelled``, ``n_atoms``, ``elements`` (sorted symbols),
    ``dataset_hash`` (SHA-256, independent of the order of the structures).
    """

    def __init__(
        self,
        structures: Sequence[Atoms] | None = None,
        file: str | Path | t.IO | None = None,
        filename: str | Path | None = None,
        content: str | Path | t.IO | None = None,
        **kwargs: t.Any,
    ) -> None:
        """Make a data set from structures, or from an extended XYZ file.

        Args:
            structures: they carry their labels in ``REF_energy``, ``REF_forces``, ``REF_stress``.
            file: path or handle of an extended XYZ file, instead of ``structures``.
            filename: ignored but for AiiDA's own constructors; the file is always ``structures.xyz``.
            content: text of an extended XYZ file (AiiDA's way to rebuild a node).
            kwargs: passed to :class:`aiida.orm.Data`.

        Raises:
            ValueError: both or neither of ``structures`` and a file are given.
            gace.errors.InputError: the file is not readable as extended XYZ.
        """
        given = [source for source in (structures, file, content) if source is not None]
        if len(given) != 1:
            raise ValueError("a data set is made from structures or from a file")
        if structures is None:
            super().__init__(file=file, filename=FILENAME, content=content, **kwargs)
            with self.as_path() as path:
                structures = read_structures(path)
        else:
            super().__init__(file=io.BytesIO(_extended_xyz(structures)), filename=FILENAME, **kwargs)
        self._describe(structures)

    def _describe(self, structures: Sequence[Atoms]) -> None:
        """Write the attributes that queries and users ask for."""
        attributes = self.base.attributes
        attributes.set("n_structures", len(structures))
        attributes.set("n_labelled", sum(labels_of(atoms).energy is not None for atoms in structures))
        attributes.set("n_atoms", sum(len(atoms) for atoms in structures))
        attributes.set("elements", sorted({symbol for atoms in structures for symbol in atoms.symbols}))
        attributes.set("dataset_hash", dataset_hash(list(structures)))

    def get_description(self) -> str:
        """One line for lists and the provenance graph."""
        what = f"{self.n_structures} structures, {' '.join(self.elements)}"
        return f"{what}, {self.n_labelled} labelled" if self.n_labelled else what

    def get_structures(self) -> list[Atoms]:
        """All structures, in the order of the file."""
        with self.as_path() as path:
            return read_structures(path)

    @property
    def structures(self) -> list[Atoms]:
        """All structures, in the order of the file."""
        return self.get_structures()

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return self.base.attributes.get("n_structures")

    @property
    def n_labelled(self) -> int:
        """Number of structures with a reference energy."""
        return self.base.attributes.get("n_labelled")

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur, sorted."""
        return self.base.attributes.get("elements")

    @property
    def dataset_hash(self) -> str:
        """Hash of structures and labels (SHA-256, hexadecimal), independent of their order."""
        return self.base.attributes.get("dataset_hash")

    def __len__(self) -> int:
        """Number of structures."""
        return self.n_structures


def _extended_xyz(structures: Sequence[Atoms]) -> bytes:
    """The structures as the bytes of an extended XYZ file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILENAME
        write_structures(path, list(structures))
        return path.read_bytes()


__all__ = ["DatasetData"]
