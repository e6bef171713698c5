"""The library of kernels in the user's cache: built once, and again if it is not what was built."""

import ctypes
import shutil

import pytest

from gace.potential.compilation import compiler_available
from gace.potential.kernels import build

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A library of one function, a cache of its own, and how often it was built."""
    (tmp_path / "one.cpp").write_text('extern "C" int number() { return 7; }\n')
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "SOURCES", ("one.cpp",))
    monkeypatch.setattr(build, "HEADERS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GACE_KERNELS", raising=False)
    builds, plainly = [], build._build
    monkeypatch.setattr(build, "_build", lambda *where: (builds.append(where), plainly(*where)))
    return builds


def opened() -> ctypes.CDLL | None:
    return build.library.__wrapped__()


def test_it_is_built_once(sources):
    assert opened().number() == 7
    assert opened().number() == 7
    assert len(sources) == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_library_cut_short_is_built_again(sources, share, zeros):
    """Opened as it is, it would end the process (SIGBUS, SIGSEGV), or never be made good."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    path = build._path(compiler)
    build._build(compiler, path)
    whole = path.read_bytes()
    kept = whole[: int(share * len(whole))]
    path.write_bytes(kept.ljust(len(whole), b"\0") if zeros else kept)
    assert opened().number() == 7
    assert len(sources) == 2
    assert path.stat().st_size == len(whole)


def test_without_a_home_there_are_none(sources, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", nowhere)
    with pytest.warns(UserWarning, match="home directory"):
        assert opened() is None
