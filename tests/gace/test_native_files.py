"""Files ``*.gace``: written whole or not at all, and refused where they are damaged or something else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gace
from gace.errors import BundleError, InputError
from gace.native import NativeModel, write
from gace.potential.bundle import save_bundle
from gace.potential.compilation import compiler_available

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def file(single, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "one.gace"
    write(single, path)
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
def test_one_bit_that_flipped_is_found(file, tmp_path, place, bit, header):
    content = bytearray(file.read_bytes())
    size = 8 + int.from_bytes(content[:8], "little") if header else len(content)
    content[int(place * size)] ^= 1 << bit
    (tmp_path / "flipped.gace").write_bytes(content)
    try:
        NativeModel(tmp_path / "flipped.gace")
    except BundleError:
        return
    # a blank that became another, say: the file holds what it did
    assert NativeModel(tmp_path / "flipped.gace").described == NativeModel(file).described


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_cut_short_is_refused(file, tmp_path, share):
    content = file.read_bytes()
    (tmp_path / "short.gace").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match=r"short\.gace"):
        NativeModel(tmp_path / "short.gace")


def test_files_of_other_kinds_are_refused(bundle, tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        gace.load(tmp_path / "absent.gace")
    (tmp_path / "text.gace").write_text("pair_style gace\n" * 10)
    with pytest.raises(BundleError, match=r"is no \*\.gace"):
        gace.load(tmp_path / "text.gace")
    (tmp_path / "other.gace").write_bytes((bundle / "model.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"is no \*\.gace"):
        gace.load(tmp_path / "other.gace")
    (tmp_path / "folder.gace").mkdir()
    with pytest.raises(BundleError, match=r"is no \*\.gace"):
        gace.load(tmp_path / "folder.gace")


def test_a_newer_format_says_so(single, tmp_path, monkeypatch):
    import gace.native.writing as module

    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    write(single, tmp_path / "new.gace")
    with pytest.raises(BundleError, match="format version 2: export it again"):
        gace.load(tmp_path / "new.gace")


def test_what_cannot_be_written_is_refused(file, committee, tmp_path):
    with pytest.raises(InputError, match=r"is a file \*\.gace"):
        write(committee, tmp_path / "one.pt")
    with pytest.raises(InputError, match="no such folder"):
        write(committee, tmp_path / "absent" / "one.gace")
    with pytest.raises(InputError, match="an exported file cannot be exported again"):
        write(gace.load(file), tmp_path / "again.gace")
    with pytest.raises(InputError, match="an exported file cannot be kept as a bundle"):
        save_bundle(gace.load(file), tmp_path / "bundle")
    (tmp_path / "full.gace").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write(committee, tmp_path / "full.gace")
    assert [one.name for one in tmp_path.iterdir()] == ["full.gace"]


def test_equal_potentials_give_equal_files(committee, tmp_path):
    for name in ("one", "two"):
        write(committee, tmp_path / f"{name}.gace")
    assert (tmp_path / "one.gace").read_bytes() == (tmp_path / "two.gace").read_bytes()
