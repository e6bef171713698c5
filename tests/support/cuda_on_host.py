"""CUDA C++ kernels compiled for the processor: threads are fibers that take turns where they meet."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import torch

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)

HOST = """
#include <cmath>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

struct Place { unsigned x, y, z; };
static Place blockIdx;
static std::vector<ucontext_t> fibers;
static std::vector<char> over;
static ucontext_t scheduler;
static std::function<void()> work;
static int current;
static std::vector<int> arrived, met;
static std::vector<unsigned long long> given;

static Place thread() { return {(unsigned)current, 0, 0}; }
#define threadIdx thread()
static void pass() { swapcontext(&fibers[current], &scheduler); }

// Waits until all `size` threads of a group are here.
static void meet(int group, int size) {
  const int before = met[group];
  if (++arrived[group] == size) arrived[group] = 0, ++met[group];
  else while (met[group] == before) pass();
}

static void together() { meet(current / 32, 32); }
static void together_all() { meet((int)met.size() - 1, (int)fibers.size()); }

template <class T>
static T shuffled_xor(T x, int other) {
  std::memcpy(&given[current], &x, sizeof(T));
  together();
  std::memcpy(&x, &given[current ^ other], sizeof(T));
  together();
  return x;
}

static unsigned ballot(bool holds) {
  given[current] = holds;
  together();
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= (given[current / 32 * 32 + i] ? 1u : 0u) << i;
  together();
  return all;
}

template <class T> static void copy_later(T *to, const T *from) { *to = *from; }
static void copied() {}
static int ones(unsigned bits) { return __builtin_popcount(bits); }
template <class T> static void atomicAdd(T *p, T x) { *p += x; }

static void begin() {
  work();
  over[current] = 1;
  pass();
}

static void block(int threads) {
  fibers.assign(threads, ucontext_t());
  over.assign(threads, 0);
  given.assign(threads, 0);
  arrived.assign(threads / 32 + 1, 0);
  met.assign(threads / 32 + 1, 0);
  constexpr size_t room = 1 << 18;
  std::vector<char> stacks(threads * room);
  for (int i = 0; i < threads; ++i) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks.data() + i * room;
    fibers[i].uc_stack.ss_size = room;
    makecontext(&fibers[i], begin, 0);
  }
  for (bool left = true; left;) {
    left = false;
    for (current = 0; current < threads; ++current)
      if (!over[current]) swapcontext(&scheduler, &fibers[current]), left = true;
  }
}

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
"""


class OnHost:
    """A kernel compiled for the processor: ``launch(grid, threads, [tensors and integers])``."""

    def __init__(self, folder, name, code):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.code = folder, name, code
        self.run = None

    def __call__(self, grid, threads, arguments):
        if self.run is None:
            self.run = self._built(arguments)
        given = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
        self.run(*grid, threads, *given)

    def _built(self, arguments):
        kinds = ["void *" if isinstance(one, torch.Tensor) else "int" for one in arguments]
        named = ", ".join(f"{kind} a{i}" for i, kind in enumerate(kinds))
        call = f"""
extern "C" void run(int nx, int ny, int nz, int threads, {named}) {{
  auto kernel = (void (*)({", ".join(kinds)})){self.name};
  work = [=] {{ kernel({", ".join(f"a{i}" for i in range(len(kinds)))}); }};
  for (int z = 0; z < nz; ++z)
    for (int y = 0; y < ny; ++y)
      for (int x = 0; x < nx; ++x) {{
        blockIdx = Place{{(unsigned)x, (unsigned)y, (unsigned)z}};
        block(threads);
      }}
}}
"""
        (self.folder / "kernel.cpp").write_text(HOST + self.code + call)
        made = self.folder / "kernel.so"
        command = [COMPILER, "-O1", "-w", "-std=c++17", "-shared", "-fPIC", "-o", str(made)]
        subprocess.run([*command, str(self.folder / "kernel.cpp")], check=True, capture_output=True)
        return ctypes.CDLL(str(made)).run
