"""What is made of parameters alone, kept for as long as they are what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")


def fixed(parameters: Sequence[Tensor]) -> bool:
    """Whether nothing is differentiated by ``parameters``: none asks for it, nor does ``torch.func``."""
    return not transformed() and not any(one.requires_grad for one in parameters)


def transformed() -> bool:
    """Whether this runs inside of ``torch.vmap`` and the like, where a tensor may stand for several."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class Kept(Generic[Made]):
    """The last thing that was made, and of what; it is in no state dict, and a copy begins with nothing."""

    def __init__(self) -> None:
        self._last: tuple[list[object], list[Tensor], Made] | None = None
        self._recorded: list[Made] = []

    def __reduce__(self) -> tuple[type[Kept[Made]], tuple[()]]:
        return type(self), ()

    def __call__(self, sources: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        """What ``make()`` makes of ``sources`` alone, made again only where one of these has changed."""
        if _traced(sources):
            return make()
        # a recording of a GPU's work (CUDA graph) has the memory to itself that is written meanwhile
        recording = sources[0].device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        key: list[object] = []
        for one in sources:
            key += [one.data_ptr(), one._version, one.shape, one.stride(), one.dtype, one.device]
        last = self._last
        if last is not None and last[0] == key:
            # what it reads must lie there as long as it is replayed
            if recording and not any(one is last[2] for one in self._recorded):
                self._recorded.append(last[2])
            return last[2]
        made = make()
        if not recording:
            # the sources are held so that no other tensor comes to lie where they do
            self._last = key, [one.detach() for one in sources], made
        return made


def _traced(sources: Sequence[Tensor]) -> bool:
    """Whether tensors may have no content, or one that must not be taken for a constant."""
    return (
        transformed()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.is_inference_mode_enabled()
        or any(type(one) not in (Tensor, nn.Parameter) or one.is_inference() for one in sources)
    )
