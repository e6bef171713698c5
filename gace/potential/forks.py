"""Processes forked from one that has computed: they must not wait for threads that only their parent has."""

from __future__ import annotations

import functools
import os

import torch


@functools.cache
def one_thread_after_forks() -> None:
    """Let processes that are forked from now on compute on one thread.

    OpenMP's threads do not come along with a fork, and the GNU library waits for them for good: a
    ``multiprocessing.Pool`` after the first calculation on several threads would stand still without a word.
    """
    os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
