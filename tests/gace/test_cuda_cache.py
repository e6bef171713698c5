"""What is kept of compiled CUDA kernels, by a compiler and a driver put in their place: no GPU is needed."""

import contextlib

import pytest
import torch
import torch.cuda._utils as driver

from gace.potential.kernels.cuda import compile as cuda

CODE = b"whole code of a kernel"


@pytest.fixture
def compilations(tmp_path, monkeypatch):
    """The sources compiled so far; the driver takes nothing but whole code."""
    made = []

    def compiler(source, name, capability, nvcc_options):
        made.append(source)
        return CODE, name

    def loader(code, names):
        if code != CODE:
            raise RuntimeError("CUDA error: device kernel image is invalid")
        return {name: f"launch {name}" for name in names}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "_nvrtc_compile", compiler)
    monkeypatch.setattr(driver, "_cuda_load_module", loader)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return made


def kernel():
    return cuda.compiled("sums", 'extern "C" __global__ void sums() {}', torch.device("cuda"))


def test_a_kernel_is_compiled_once(compilations):
    assert kernel() == kernel() == "launch sums"
    assert len(compilations) == 1


@pytest.mark.parametrize("left", [b"", CODE[:5]])
def test_a_kept_kernel_that_was_cut_short_is_made_anew(compilations, tmp_path, left):
    kernel()
    (kept,) = (tmp_path / "cache/gace").iterdir()
    kept.write_bytes(left)
    assert kernel() == kernel() == "launch sums"
    assert len(compilations) == 2
    assert kept.read_bytes() == CODE


def test_a_folder_that_cannot_be_written_costs_a_compilation_only(compilations, tmp_path, recwarn):
    (tmp_path / "cache").write_text("not a folder")
    assert kernel() == kernel() == "launch sums"
    assert len(compilations) == 2
    assert not recwarn
