"""Engines: programs that turn a structure into a label."""

from gace_platform.labelling.engines.base import Engine, Failure, Label, make_engine

__all__ = ["Engine", "Failure", "Label", "make_engine"]
