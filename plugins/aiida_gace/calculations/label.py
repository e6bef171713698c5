"""Label a few structures with the reference method: ``gace labels run``."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData


class LabelCalculation(GaceCalculation):
    """Reference calculations of several structures, one after another.

    Every result is committed to the label store the moment it is there, and a label the store knows is
    reused; so a job that was killed may simply be run again. A structure that fails has a verdict and no
    label; it never fails the job.
    """

    verb = ("labels", "run")
    retrieve = ("labels.json",)
    retrieve_temporarily = ("labelled.xyz", "isolated_atoms.xyz")

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("structures", valid_type=DatasetData, help="Structures to label.")
        spec.output(
            "labelled", valid_type=DatasetData, required=False, help="Structures whose label was accepted."
        )
        spec.output(
            "isolated_atoms", valid_type=DatasetData, required=False, help="One labelled atom per element."
        )
        spec.output(
            "verdicts", valid_type=orm.Dict, help="Key, verdict, reason, price and attempts by structure."
        )
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.label"
        spec.exit_code(440, "ERROR_ISOLATED_ATOM", message="an isolated atom has no label: {detail}")

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the structures."""
        config["structures"] = self.lay_dataset(folder, self.inputs.structures, "structures.xyz")


__all__ = ["LabelCalculation"]
