"""Parser of a single point by CP2K: energy, forces and stress, which aiida-cp2k's own parsers leave out."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from gace_platform.labelling.engines.cp2k_output import failure_class, read_output


class Cp2kParser(Parser):
    """Results of a converged single point in gace's units; else one of ``Cp2kCalculation``'s exit codes."""

    def parse(self, **kwargs: t.Any) -> ExitCode | None:
        """Attach ``output_parameters`` (see ``read_output``) of a calculation that ended well."""
        name = self.node.base.attributes.get("output_filename")
        try:
            text = self.retrieved.base.repository.get_object_content(name)
        except OSError:
            return self.exit_codes.ERROR_OUTPUT_MISSING
        try:
            found = read_output(text)
        except ValueError:
            failure = failure_class(text)
            if failure == "unconverged":
                return self.exit_codes.ERROR_SCF_NOT_CONVERGED
            if failure == "timeout":
                return self.exit_codes.ERROR_OUT_OF_WALLTIME
            if "[ABORT]" in text:
                return self.exit_codes.ERROR_OUTPUT_CONTAINS_ABORT
            return self.exit_codes.ERROR_OUTPUT_INCOMPLETE
        self.out("output_parameters", orm.Dict(found))
        if not found["converged"]:
            return self.exit_codes.ERROR_SCF_NOT_CONVERGED
        if not found["ended"]:
            return self.exit_codes.ERROR_OUTPUT_INCOMPLETE
        return None


__all__ = ["Cp2kParser"]
