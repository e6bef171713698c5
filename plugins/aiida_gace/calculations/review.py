"""Compare fresh labels with what is expected of them: ``gace labels review``."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData


class ReviewCalculation(GaceCalculation):
    """Labels far from what a committee expects, in other units, or of the wrong sign are suspects."""

    verb = ("labels", "review")
    retrieve = ("review.json",)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs and outputs."""
        super().define(spec)
        spec.input("structures", valid_type=DatasetData, help="Labelled structures of one level of theory.")
        spec.input(
            "potential",
            valid_type=PotentialData,
            required=False,
            help="Bundle that was not trained on them; without it, the teacher's energies and forces count.",
        )
        spec.output("suspects", valid_type=orm.Dict, help="Reasons by label key.")
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.review"

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the labels and the bundle."""
        config["structures"] = self.lay_dataset(folder, self.inputs.structures, "labelled.xyz")
        if "potential" in self.inputs:
            config["potential"] = self.lay_potential(folder, self.inputs.potential, "potential")


__all__ = ["ReviewCalculation"]
