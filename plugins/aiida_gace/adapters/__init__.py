"""Adapters: how AiiDA runs each DFT program, and how its output becomes a label."""

from aiida_gace.adapters.base import Adapter, Outcome, make_adapter

__all__ = ["Adapter", "Outcome", "make_adapter"]
