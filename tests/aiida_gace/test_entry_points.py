"""AiiDA finds every plug-in by its name."""

import pytest

pytestmark = pytest.mark.aiida

NAMES = ["committee", "explore", "label", "register", "review", "select"]


@pytest.mark.parametrize("name", NAMES)
def test_calculation_has_a_parser_of_its_name(aiida_profile, name):
    from aiida.plugins import CalculationFactory, ParserFactory

    spec = CalculationFactory(f"gace.{name}").spec()
    assert spec.inputs["metadata"]["options"]["parser_name"].default == f"gace.{name}"
    assert ParserFactory(f"gace.{name}").__name__.lower() == f"{name}parser"


@pytest.mark.parametrize("name", ["dataset", "potential"])
def test_data_types(aiida_profile, name):
    from aiida.orm import Data
    from aiida.plugins import DataFactory

    assert issubclass(DataFactory(f"gace.{name}"), Data)


@pytest.mark.parametrize("name", ["label", "active_learning"])
def test_work_chains_have_a_valid_specification(aiida_profile, name):
    from aiida.plugins import WorkflowFactory

    spec = WorkflowFactory(f"gace.{name}").spec()
    assert spec.get_outline() is not None


@pytest.mark.parametrize("name", NAMES)
def test_transient_exit_codes_are_never_cached(aiida_profile, name):
    from aiida.plugins import CalculationFactory

    process = CalculationFactory(f"gace.{name}")
    cached = {code.status for code in process.spec().exit_codes.values() if not code.invalidates_cache}
    assert not cached & process.transient_exit_codes
