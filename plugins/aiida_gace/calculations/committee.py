"""Train a committee of potentials: ``gace committee train``."""

from __future__ import annotations

import typing as t

from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData


class CommitteeCalculation(GaceCalculation):
    """A committee trained on a labelled data set, with its uncertainty calibrated, as one bundle."""

    verb = ("committee", "train")
    retrieve = ("summary.json", "members/*/metrics.jsonl")
    retrieve_temporarily = ("potential",)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("train", valid_type=DatasetData, help="Labelled structures to train on.")
        spec.input(
            "isolated_atoms", valid_type=DatasetData, required=False, help="One labelled atom per element."
        )
        spec.input(
            "start_from", valid_type=PotentialData, required=False, help="A bundle each member starts from."
        )
        spec.output("potential", valid_type=PotentialData, help="The bundle: members and uncertainty.")
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.committee"
        spec.exit_code(410, "ERROR_DIVERGED", message="the training diverged: {detail}")
        spec.exit_code(411, "ERROR_TOO_FEW_MEMBERS", message="too few members could be trained: {detail}")

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the training set, the isolated atoms and the bundle to start from."""
        data = config.setdefault("data", {})
        data["train"] = self.lay_dataset(folder, self.inputs.train, "train.xyz")
        if "isolated_atoms" in self.inputs:
            data["isolated_atoms"] = self.lay_dataset(
                folder, self.inputs.isolated_atoms, "isolated_atoms.xyz"
            )
        if "start_from" in self.inputs:
            section = config.setdefault("potential", {})
            section["start_from"] = self.lay_potential(folder, self.inputs.start_from, "start_from")


__all__ = ["CommitteeCalculation"]
