"""Choose what to label: ``gace select``."""

from __future__ import annotations

import typing as t

from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData


class SelectCalculation(GaceCalculation):
    """A diverse batch from a pool of candidates, with a random reserve and a reason for each pick."""

    verb = ("select",)
    retrieve = ("selection.json",)
    retrieve_temporarily = ("selected.xyz",)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("pool", valid_type=DatasetData, help="Candidates.")
        spec.input("training", valid_type=DatasetData, required=False, help="Structures labelled already.")
        spec.input(
            "potential", valid_type=PotentialData, required=False, help="Bundle whose features decide."
        )
        spec.output("selected", valid_type=DatasetData, required=False, help="The picks, in the order made.")
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.select"
        spec.exit_code(
            430, "ERROR_NOTHING_SELECTED", message="nothing in the pool is worth a label: {detail}"
        )

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the pool, the training set and the bundle."""
        config["pool"] = self.lay_dataset(folder, self.inputs.pool, "pool.xyz")
        if "training" in self.inputs:
            config["training"] = self.lay_dataset(folder, self.inputs.training, "training.xyz")
        if "potential" in self.inputs:
            config["potential"] = self.lay_potential(folder, self.inputs.potential, "potential")


__all__ = ["SelectCalculation"]
