"""ASE calculators by name or import path, for rehearsals and for a first exploration."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.errors import GaceError, InputError, missing, nearest

if TYPE_CHECKING:
    from gace.potential.potential import Potential


def make_calculator(name: str, **kwargs: Any) -> Any:
    """An ASE calculator.

    Args:
        name: a known name (see :data:`CALCULATORS`), or ``module:factory``.
        kwargs: arguments of the calculator's constructor.

    Raises:
        InputError: no such name, module or factory, or arguments it does not take.
        MissingDependencyError: the package behind a known name is not installed.
    """
    factory = calculator_factory(name)
    try:
        return factory(**kwargs)
    except (TypeError, ValueError) as error:
        raise InputError(f"calculator '{name}' does not take {kwargs}: {error}") from None


def arguments_in(name: str, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a calculator with relative paths (a bundle's, of ``gace``) counted from ``folder``."""
    if name != "gace" or "bundle" not in arguments:
        return arguments
    return {**arguments, "bundle": str((folder / Path(str(arguments["bundle"])).expanduser()).resolve())}


def arguments_by_content(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with what a bundle holds in the place of where it lies, to name work by."""
    if name != "gace" or "bundle" not in arguments:
        return arguments
    from gace.potential.bundle import bundle_hash

    try:
        return {**arguments, "bundle": bundle_hash(str(arguments["bundle"]))}
    except GaceError:  # gone: whoever needs it will say so
        return arguments


def calculator_factory(name: str) -> Callable[..., Any]:
    """The callable behind a calculator's name; see :func:`make_calculator`."""
    if ":" not in name:
        if name not in CALCULATORS:
            raise InputError(
                f"no calculator called '{name}'{nearest(name, CALCULATORS)} (or give module:factory)"
            )
        return CALCULATORS[name]
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot import calculator '{name}': {error}") from None
    except AttributeError:
        raise InputError(f"calculator '{name}': {module} has no '{attribute}'") from None
    if not callable(factory):
        raise InputError(f"calculator '{name}' is not callable")
    return factory


def tblite(**kwargs: Any) -> Any:
    """Extended tight binding: ``method`` is ``GFN2-xTB`` (default) or ``GFN1-xTB``."""
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise missing("tblite", "dft") from None
    return TBLite(**{"method": "GFN2-xTB", "verbosity": 0, **kwargs})


def emt(**kwargs: Any) -> Any:
    """ASE's effective medium theory: Ni Cu Pd Ag Pt Au Al, and H C N O for toys."""
    from ase.calculators.emt import EMT

    return EMT(**kwargs)


def lennard_jones(**kwargs: Any) -> Any:
    """ASE's Lennard-Jones potential."""
    from ase.calculators.lj import LennardJones

    return LennardJones(**kwargs)


def tersoff_silicon(**kwargs: Any) -> Any:
    """Tersoff's potential for silicon, parameters of J. Tersoff, Phys. Rev. B 38, 9902 (1988)."""
    from ase.calculators.tersoff import Tersoff, TersoffParameters

    silicon = TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6,
        lambda2=1.7322, B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): silicon}, **kwargs)


def bundle(bundle: str, **kwargs: Any) -> Any:
    """A potential of gace: a bundle's folder, and arguments of its ``calculator``."""
    from gace.potential.bundle import bundle_hash

    return _loaded(bundle, bundle_hash(bundle)).calculator(**{"uncertainty": False, **kwargs})


@lru_cache(maxsize=1)
def _loaded(bundle: str, content: str) -> Potential:
    # thousands of walks ask for one teacher; another content is another teacher
    from gace.potential.bundle import load

    return load(bundle, device="cpu")


CALCULATORS: dict[str, Callable[..., Any]] = {
    "tblite": tblite,
    "emt": emt,
    "gace": bundle,
    "lj": lennard_jones,
    "tersoff-si": tersoff_silicon,
}
"""Known calculators by name."""
