"""Running a user's LAMMPS input with a potential."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gace.errors import GaceError, InputError

if TYPE_CHECKING:
    from gace.engines.lammps.coupling import Coupling
    from gace.potential.potential import Potential

LINE = "fix gace all external pf/callback 1 1"
"""The line that must stand in the input, after the box is made and before the first run."""

FIX = re.compile(r"^\s*fix\s+(?P<name>\S+)\s+(?P<group>\S+)\s+external\s+(?P<rest>.*?)\s*$")


class Script(NamedTuple):
    """A LAMMPS input, cut behind the line of the fix."""

    before: str
    """Up to that line, inclusive."""

    after: str
    """The rest."""

    fix: str
    """Identifier of the fix."""


class ScriptOutcome(NamedTuple):
    """How an input ended."""

    steps: int
    """LAMMPS' step counter at the end."""

    atoms: int
    """Atoms in the box at the end."""

    energy: float
    """Potential energy of the last step that was computed, eV; NaN if none was."""

    gamma_max: float | None
    """Largest novelty grade of any atom at any step; None without a novelty grade."""

    evaluations: int | None
    """How often forces were computed; None where LAMMPS does not tell."""

    searches: int | None
    """How often neighbours were searched anew; likewise."""

    seconds: float
    """Wall time of the input, s."""


def read_script(path: str | Path) -> Script:
    """Read an input and find the line of the fix.

    Raises:
        InputError: no such file, or the line is absent, stands twice, or differs from :data:`LINE`.
    """
    lines = read_lines(path)
    found = [(number, match) for number, line in enumerate(lines) if (match := FIX.match(bare(line)))]
    if len(found) != 1:
        count = f"{len(found)} lines" if found else "no line"
        raise InputError(
            f"{path} holds {count} with a fix external, where one must stand, after the box is made and "
            f"before the first run: {LINE}"
        )
    ((number, match),) = found
    if match["group"] != "all" or match["rest"].split() != ["pf/callback", "1", "1"]:
        raise InputError(f"{path}, line {number + 1}: the potential acts on all atoms at every step: {LINE}")
    return Script("\n".join(lines[: number + 1]) + "\n", "\n".join(lines[number + 1 :]) + "\n", match["name"])


def read_lines(path: str | Path) -> list[str]:
    """The lines of an input.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def run_script(
    path: str | Path,
    potential: Potential | str | Path,
    *,
    elements: Sequence[str],
    device: str | None = None,
    dtype: str | None = None,
    evaluation: str = "eager",
    arguments: Sequence[str] = (),
) -> ScriptOutcome:
    """Run an input of LAMMPS; relative paths in it start at the current folder, as with ``lmp -in``.

    Args:
        path: the input; see :func:`read_script`.
        potential: a potential, or the folder or ``models:/`` URI of one.
        elements: the element of each atom type, from type 1 on.
        device: as for :func:`gace.engines.lammps.attach`.
        dtype: the same.
        evaluation: ``eager``, ``compiled`` or ``auto``.
        arguments: LAMMPS' own command-line options.

    Raises:
        InputError: the input or the elements do not fit; see :func:`read_script` and ``attach``.
        MissingDependencyError: LAMMPS is absent.
        GaceError: LAMMPS stopped with an error.
    """
    from gace.engines.lammps.coupling import attach
    from gace.engines.lammps.library import open_lammps

    script = read_script(path)
    began = time.perf_counter()
    lmp = open_lammps(arguments)
    coupling: Coupling | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="gace-lammps-") as folder:
            _run(lmp, Path(folder, "before.in"), script.before, None)
            coupling = attach(
                lmp, potential, elements=elements, fix=script.fix, device=device, dtype=dtype, path=evaluation
            )
            _run(lmp, Path(folder, "after.in"), script.after, coupling)
        return ScriptOutcome(
            steps=int(lmp.extract_global("ntimestep")),
            atoms=int(lmp.get_natoms()),
            energy=coupling.energy,
            gamma_max=coupling.gamma_max,
            evaluations=coupling.evaluations,
            searches=coupling.searches,
            seconds=time.perf_counter() - began,
        )
    finally:
        lmp.close()


def _run(lmp: Any, part: Path, text: str, coupling: Coupling | None) -> None:
    """Give one part of the input to LAMMPS, from a file: ``jump`` and ``label`` need one."""
    part.write_text(text, encoding="utf-8")
    try:
        lmp.file(str(part))
    except Exception as error:  # LAMMPS' module raises bare Exception
        if coupling is not None:
            coupling.raise_failure()
        raise GaceError(f"LAMMPS stopped: {' '.join(str(error).split())}") from None
    if coupling is not None:
        coupling.raise_failure()


def bare(line: str) -> str:
    """A line without its comment."""
    return line.partition("#")[0]
