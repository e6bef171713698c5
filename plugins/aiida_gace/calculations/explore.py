"""Look for structures worth a label: ``gace explore``."""

from __future__ import annotations

import typing as t

from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData


class ExploreCalculation(GaceCalculation):
    """Walkers run with a potential (or a cheap teacher) from given structures; they leave candidates."""

    verb = ("explore",)
    retrieve = ("summary.json",)
    retrieve_temporarily = ("candidates.xyz",)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("start", valid_type=DatasetData, help="Structures the walkers start from.")
        spec.input("potential", valid_type=PotentialData, required=False, help="Bundle to explore with.")
        spec.output("candidates", valid_type=DatasetData, help="Frames the walkers kept.")
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.explore"
        spec.exit_code(420, "ERROR_NO_CANDIDATES", message="no walker left a usable structure: {detail}")

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the start structures and the bundle."""
        config["start"] = self.lay_dataset(folder, self.inputs.start, "start.xyz")
        if "potential" in self.inputs:
            config["potential"] = self.lay_potential(folder, self.inputs.potential, "potential")


__all__ = ["ExploreCalculation"]
