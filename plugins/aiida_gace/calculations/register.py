"""Register a potential in MLflow and let it sit the frozen exam: ``gace models register``."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec

from aiida_gace.calculations.base import GaceCalculation
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData


class RegisterCalculation(GaceCalculation):
    """A new model version with its metrics and AiiDA identifiers; champion if it passes the exam.

    Registering twice is harmless: the registry knows a bundle by its content and its generation.
    """

    verb = ("models", "register")
    retrieve = ("registration.json",)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("potential", valid_type=PotentialData, help="Bundle to register.")
        spec.input(
            "exam", valid_type=DatasetData, required=False, help="The frozen exam: labelled structures."
        )
        spec.input(
            "committee", valid_type=orm.FolderData, required=False, help="What the training job left behind."
        )
        spec.output(
            "registration", valid_type=orm.Dict, help="Version, URI, exam result, and who is champion."
        )
        spec.inputs["metadata"]["options"]["parser_name"].default = "gace.register"
        spec.exit_code(450, "ERROR_REGISTRY", message="the registry refused the model: {detail}")

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Lay the bundle, the exam and the members' training curves; say which job this is."""
        config["bundle"] = self.lay_potential(folder, self.inputs.potential, "potential")
        config.setdefault("nodes", {})["register"] = str(self.node.uuid)
        if "exam" in self.inputs:
            exam = config.setdefault("exam", {})
            exam["structures"] = self.lay_dataset(folder, self.inputs.exam, "exam.xyz")
        if "committee" in self.inputs:
            self.inputs.committee.base.repository.copy_tree(folder.get_abs_path("committee"))
            config["committee"] = "committee"


__all__ = ["RegisterCalculation"]
