"""Calculation jobs: each runs one plain ``gace`` command."""
