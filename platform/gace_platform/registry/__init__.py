"""Model registry on MLflow: runs nested by generation and member, versions, the alias ``champion``."""

from __future__ import annotations

from pathlib import Path


def pyfunc_source() -> Path:
    """The file that is stored with each model as its code."""
    return Path(__file__).with_name("pyfunc_model.py")


__all__ = ["pyfunc_source"]
