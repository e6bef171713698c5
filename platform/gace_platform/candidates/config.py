"""The configuration of ``gace select``; defaults live here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from gace.config import Closed, load_config


class SelectConfig(Closed):
    """One selection: ``gace select CONFIG.yaml --out DIR``."""

    pool: Path | list[Path]
    """Candidates, one file or several."""
    training: Path | list[Path] | None = None
    """What is labelled already: never picked again, and what the picks shall differ from."""
    exclude: list[Path] = Field(default_factory=list)
    """Structures never to be picked (quarantined ones, the exam); they do not count as known."""
    exclude_keys: list[str] = Field(default_factory=list)
    """Label keys (or structure hashes of at least 16 digits) never to be picked."""
    potential: str | None = None
    """Bundle folder or ``models:/`` URI; without one the selection is by geometry alone."""
    count: PositiveInt
    """Structures to pick, the reserve included."""
    strategy: Literal["lcmd", "fps", "random"] = "lcmd"
    """lcmd: diverse and representative; fps: farthest points; random: drawn from all physical candidates."""
    reserve_fraction: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of ``count`` drawn at random from all physical candidates, for calibration and audit."""
    seed: int = Field(default=0, ge=0)

    distance_min: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Shortest distance of a physical structure, as a share of the sum of the covalent radii."""
    gamma_max: PositiveFloat | None = None
    """Largest γ of a physical structure; null: no limit (the walkers have theirs). An element without
    training data has γ = ∞ for another reason and is not refused by this limit."""
    energy_max_per_atom: PositiveFloat | None = None
    """Largest energy above the lowest of the same composition, eV/atom; a candidate that lies farther than
    this below all others is not taken for the lowest."""
    forces_max: PositiveFloat | None = 50.0
    """Largest force on an atom, eV/Å, by the potential (else by the teacher that made the candidate)."""

    duplicate_tolerance: NonNegativeFloat = 0.01
    """Relative distance of geometric descriptors below which two structures are copies; 0.01 is what random
    displacements of 5 mÅ make of a small molecule. 0: keep all but exact copies."""
    crystal_tolerance: PositiveFloat = 0.01
    """Root mean square displacement, over the cube root of the volume per atom, up to which two crystals are
    one (only asked about close pairs: frames of one in place, others by pymatgen's StructureMatcher)."""
    shortlist: PositiveInt | None = None
    """Candidates that reach the diversity step; null: 12 for each pick, at least 100."""
    gradient_dimensions: PositiveInt = 512
    """Length of the sketched gradients."""
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float64"

    @model_validator(mode="after")
    def _keys_are_hashes(self) -> Self:
        for key in self.exclude_keys:
            if len(key.partition("-")[0]) < 16:
                raise ValueError(
                    f"'{key}' in exclude_keys is no label key: its hash has fewer than 16 digits"
                )
        return self

    @property
    def pool_files(self) -> list[Path]:
        """Files of candidates."""
        return self.pool if isinstance(self.pool, list) else [self.pool]

    @property
    def training_files(self) -> list[Path]:
        """Files of labelled structures."""
        if self.training is None:
            return []
        return self.training if isinstance(self.training, list) else [self.training]

    @property
    def n_reserve(self) -> int:
        """Picks of the reserve: the share of ``count``, rounded, and at least one where there is room."""
        if self.reserve_fraction == 0:
            return 0
        return max(round(self.reserve_fraction * self.count), 1 if self.count > 1 else 0)

    @property
    def n_shortlist(self) -> int:
        """Candidates that reach the diversity step."""
        return self.shortlist if self.shortlist is not None else max(12 * self.count, 100)

    def relative_to(self, folder: Path) -> SelectConfig:
        """The same configuration with relative paths taken from ``folder``."""
        content: dict[str, Any] = {
            "pool": [(folder / path).absolute() for path in self.pool_files],
            "training": [(folder / path).absolute() for path in self.training_files] or None,
            "exclude": [(folder / path).absolute() for path in self.exclude],
        }
        if self.potential is not None and not self.potential.startswith("models:"):
            content["potential"] = str((folder / self.potential).absolute())
        return self.model_copy(update=content)


def load_select_config(path: Path, overrides: Sequence[str] = ()) -> SelectConfig:
    """Read the file; relative paths in it count from its folder.

    Raises:
        InputError: one line naming the key and the nearest valid one.
    """
    return load_config(path, SelectConfig, overrides).relative_to(path.absolute().parent)
