"""Every entry point that the distribution declares can be loaded, and is what its group promises."""

from importlib.metadata import EntryPoint, distribution

import click
import pytest

POINTS = [point for point in distribution("gace").entry_points if point.group != "console_scripts"]


def test_the_four_kinds_of_aiida_plugins_and_the_commands_are_declared() -> None:
    groups = {"gace.commands", "aiida.calculations", "aiida.parsers", "aiida.data", "aiida.workflows"}
    assert groups <= {point.group for point in POINTS}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.group}:{point.name}")
def test_entry_point_loads(point: EntryPoint) -> None:
    loaded = point.load()
    if point.group == "gace.commands":
        assert isinstance(loaded, click.Command)
        assert loaded.help or loaded.short_help
    else:
        assert isinstance(loaded, type)
