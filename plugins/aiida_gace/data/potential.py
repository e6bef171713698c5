"""A potential bundle as an AiiDA node."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from aiida.orm import FolderData

if t.TYPE_CHECKING:
    from gace import Potential


class PotentialData(FolderData):
    """A potential bundle: the folder that ``gace.load`` reads, stored file by file.

    Attributes in the database: ``elements`` (in the order of the bundle), ``cutoff`` (Å), ``n_members``,
    ``dataset_hash`` of the training set, ``content_hash`` (of the bundle's own checksums).
    The extras ``mlflow_version`` and ``mlflow_uri`` are added when the registry has numbered it.
    """

    def __init__(self, tree: str | Path | None = None, **kwargs: t.Any) -> None:
        """Wrap the bundle folder ``tree`` (an absolute path).

        Raises:
            ValueError: the folder is not a potential bundle.
        """
        super().__init__(tree=None if tree is None else str(tree), **kwargs)
        if tree is not None:
            self._describe(Path(tree))

    def _describe(self, folder: Path) -> None:
        """Write the attributes that queries and users ask for."""
        import hashlib

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            checksums = (folder / "checksums.json").read_bytes()
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} is not a potential bundle: {error}") from None
        attributes = self.base.attributes
        attributes.set("elements", list(config.get("elements", [])))
        attributes.set("cutoff", config.get("cutoff"))
        attributes.set("n_members", config.get("n_members", 1))
        attributes.set("dataset_hash", (config.get("metadata") or {}).get("dataset_hash"))
        attributes.set("content_hash", hashlib.sha256(checksums).hexdigest())

    def get_description(self) -> str:
        """One line for lists and the provenance graph."""
        version = self.base.extras.get("mlflow_version", None)
        what = f"{self.n_members} members, {' '.join(self.elements)}"
        return what if version is None else f"{what}, version {version}"

    def copy_to(self, folder: str | Path) -> Path:
        """Write the bundle into ``folder`` (made if absent); returns its path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.base.repository.copy_tree(folder)
        return folder

    def load(self) -> Potential:
        """The potential, ready to predict; it executes nothing that was stored."""
        import gace

        with self.as_path() as folder:
            return gace.load(folder)

    @property
    def elements(self) -> list[str]:
        """Chemical symbols in the stored order."""
        return self.base.attributes.get("elements")

    @property
    def n_members(self) -> int:
        """Number of committee members."""
        return self.base.attributes.get("n_members")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the bundle's checksums file: equal for equal bundles."""
        return self.base.attributes.get("content_hash")


__all__ = ["PotentialData"]
