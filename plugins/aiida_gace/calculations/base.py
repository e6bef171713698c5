"""What all calculation jobs of gace share: one plain command, files in, files out."""

from __future__ import annotations

import typing as t

import yaml
from aiida import orm
from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec

from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData

CONFIG_FILE = "config.yaml"
OUTPUT_FOLDER = "out"
STDOUT_FILE = "summary.out"
STDERR_FILE = "progress.err"
EXIT_CODE_FILE = "exit_code"
ERROR_FILE = "error.json"
TIMES_FILE = "times"
"""Processor time of the shell and of all it ran, as bash's ``times`` prints it."""


class GaceCalculation(CalcJob):
    """Run ``gace VERB… config.yaml --out out --json`` with the inputs laid beside ``config.yaml``.

    A subclass names the command (:attr:`verb`), its inputs and outputs, and writes the input files in
    :meth:`lay_inputs`. The working folder of a job can be entered and the command run again by hand.

    Exit codes come in families: 3xx the output is missing or unreadable (301, 310 and 311 are transient and
    never cached), 4xx the command said no, 5xx usable with a reservation.
    """

    verb: t.ClassVar[tuple[str, ...]] = ()
    retrieve: t.ClassVar[tuple[str, ...]] = ()
    """Files below the output folder that stay with the node for good."""
    retrieve_temporarily: t.ClassVar[tuple[str, ...]] = ()
    """Files below the output folder that the parser turns into data nodes."""
    transient_exit_codes: t.ClassVar[frozenset[int]] = frozenset({301, 310, 311})

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Declare the inputs, outputs and exit codes that all commands share."""
        super().define(spec)
        spec.input(
            "config",
            valid_type=orm.Dict,
            help="Content of the command's configuration file, less file names.",
        )
        spec.output("summary", valid_type=orm.Dict, help="The JSON summary the command printed.")
        spec.inputs["metadata"]["options"]["resources"].default = {
            "num_machines": 1,
            "num_mpiprocs_per_machine": 1,
        }
        spec.inputs["metadata"]["options"]["withmpi"].default = False
        spec.exit_code(
            301,
            "ERROR_KILLED",
            message="the command was killed before it ended: {detail}",
            invalidates_cache=True,
        )
        spec.exit_code(302, "ERROR_OUTPUT_MISSING", message="the command ended well but left no {detail}")
        spec.exit_code(303, "ERROR_OUTPUT_UNREADABLE", message="an output file is unreadable: {detail}")
        spec.exit_code(
            310, "ERROR_CLUSTER_LOST", message="the Dask cluster was lost: {detail}", invalidates_cache=True
        )
        spec.exit_code(
            311,
            "ERROR_STORE_LOCKED",
            message="a store was locked by another process: {detail}",
            invalidates_cache=True,
        )
        spec.exit_code(
            400, "ERROR_COMMAND_FAILED", message="the command failed: {detail}", invalidates_cache=True
        )
        spec.exit_code(402, "ERROR_OUT_OF_MEMORY", message="out of memory: {detail}", invalidates_cache=True)
        spec.exit_code(401, "ERROR_WRONG_INPUT", message="the command refused its input: {detail}")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the configuration and the input files; name what to bring back."""
        config = self.inputs.config.get_dict()
        self.lay_inputs(folder, config)
        with folder.open(CONFIG_FILE, "w", encoding="utf8") as handle:
            yaml.safe_dump(config, handle, sort_keys=False)

        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = [*self.verb, CONFIG_FILE, "--out", OUTPUT_FOLDER, "--json"]
        code.stdout_name = STDOUT_FILE
        code.stderr_name = STDERR_FILE
        code.withmpi = False

        info = CalcInfo()
        info.codes_info = [code]
        # a direct job has no accounting: the script itself leaves the exit status behind
        info.append_text = (
            f"echo $? > {EXIT_CODE_FILE}.tmp; times > {TIMES_FILE}; mv {EXIT_CODE_FILE}.tmp {EXIT_CODE_FILE}"
        )
        info.prepend_text = f"export GACE_ERROR_FILE={ERROR_FILE}"
        info.retrieve_list = [STDOUT_FILE, STDERR_FILE, EXIT_CODE_FILE, ERROR_FILE, TIMES_FILE]
        # the depth keeps all of a path but its leading "out/"
        info.retrieve_list += [below_output(name) for name in self.retrieve]
        info.retrieve_temporary_list = [below_output(name) for name in self.retrieve_temporarily]
        return info

    def lay_inputs(self, folder: Folder, config: dict[str, t.Any]) -> None:
        """Write input files into ``folder`` and name them in ``config``, in place."""

    @staticmethod
    def lay_dataset(folder: Folder, data: DatasetData, name: str) -> str:
        """Write a data set as the file ``name``; returns the name."""
        with data.open(mode="rb") as source:
            folder.create_file_from_filelike(source, name, mode="wb", encoding=None)
        return name

    @staticmethod
    def lay_potential(folder: Folder, data: PotentialData, name: str) -> str:
        """Write a potential bundle as the folder ``name``; returns the name."""
        data.copy_to(folder.get_abs_path(name))
        return name


def below_output(name: str) -> tuple[str, str, int]:
    """AiiDA's instruction to bring ``out/NAME`` as ``NAME``; the name may hold wildcards and folders."""
    return (f"{OUTPUT_FOLDER}/{name}", ".", name.count("/") + 1)


__all__ = ["GaceCalculation"]
