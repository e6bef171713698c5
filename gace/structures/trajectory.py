"""Trajectories, written frame by frame."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ase import Atoms

from gace.errors import InputError
from gace.files import replacing
from gace.structures.formats import EXTENDED_XYZ, format_of, write_as_named
from gace.structures.io import compressed, without_calculator


class Trajectory:
    """Frames that grow in ``FILE.part``, extended XYZ, and become ``FILE`` however the run ends.

    Frames are whole in the part file, so that what a killed run had got to is there. A run that ends
    before its first frame leaves an earlier ``FILE`` alone.

    Args:
        path: in the format of its name, extended XYZ compressed if that ends in ``.gz``; None writes nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.part = None if path is None else path.with_name(f"{path.name}.part")
        self.frames = 0
        self._stream: IO[str] | None = None

    def __enter__(self) -> Self:
        """Open the part file.

        Raises:
            InputError: it cannot be written.
        """
        if self.part is not None:
            try:
                self._stream = self.part.open("w", encoding="utf-8")
            except OSError as error:
                raise InputError(f"cannot write {self.part}: {error.strerror or error}") from None
        return self

    def append(self, atoms: Atoms) -> None:
        """Write a frame; results of a calculator are not written.

        Raises:
            InputError: the disk is full, say.
        """
        from ase.io import write

        if self._stream is None:
            return
        text = io.StringIO()
        write(text, without_calculator(atoms), format="extxyz", write_results=False)
        try:
            self._stream.write(text.getvalue())
            self._stream.flush()
        except OSError as error:
            raise InputError(f"cannot write {self.part}: {error.strerror or error}") from None
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None or self.path is None or self.part is None:
            return
        self._stream.close()
        if self.frames:
            self._finish(self.part, self.path)
        self.part.unlink()

    @staticmethod
    def _finish(part: Path, path: Path) -> None:
        """The whole file from the part, which stays where this fails."""
        if format_of(path, several=True) == EXTENDED_XYZ:
            with replacing(path) as temporary:
                temporary.write_bytes(compressed(part.read_bytes(), path))
            return
        from ase.io import read

        # an @ belongs to the name, as in read_structures
        write_as_named(path, read(part, index=":", format="extxyz", do_not_split_by_at_sign=True))
