"""Work on a GPU that is recorded once, as a CUDA graph, and then replayed.

A step of a small network is hundreds of kernels of some microseconds each: Python and launches take
longer. A replay is one launch. What is recorded must not wait for the device, for nothing is
computed meanwhile, nor change from call to call by Python's own doing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

Tensors = tuple[torch.Tensor, ...]
Returned = TypeVar("Returned", bound=Tensors)
# Runs a function once, recording; returns what it returned and what runs it again on the same
# inputs, and writes into what was returned.
Record = Callable[[Callable[..., Tensors], Tensors], tuple[Tensors, Callable[[], None]]]
_WARM_UP = 3  # So many calls run as they are: libraries and optimizers set themselves up in them.


class CaptureFailed(RuntimeError):
    """Something could not be recorded; it may be done without."""


class Replayed(Generic[Returned]):
    """A function of tensors on a GPU, recorded at its fourth call and replayed from then on.

    An input that was the very same tensor in the first three calls is constant: it is not copied.
    Calls with other constants, or with tensors of other shapes, run the function itself.

    Args:
        function: Gives a tuple of tensors, perhaps empty; what it changes, it changes in place.
        record: See ``Record``.
    """

    def __init__(self, function: Callable[..., Returned], record: Record) -> None:
        self._function, self._record = function, record
        self._calls = 0
        self._inputs: Tensors = ()  # of the first call, then of the recording
        self._constant: Sequence[bool] = ()
        self._returned: Tensors = ()
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: torch.Tensor) -> Returned:
        """What the function returns, in tensors of the caller's own."""
        self._inputs = self._inputs or inputs
        if self._calls < _WARM_UP:
            self._calls += 1
            same = [new is own for new, own in zip(inputs, self._inputs, strict=True)]
            self._constant = [a and b for a, b in zip(self._constant or same, same, strict=True)]
            return self._function(*inputs)
        for new, own, constant in zip(inputs, self._inputs, self._constant, strict=True):
            if new is not own if constant else new.shape != own.shape:
                return self._function(*inputs)
        if self._replay is None:
            pairs = zip(inputs, self._constant, strict=True)
            self._inputs = tuple(new if constant else new.clone() for new, constant in pairs)
            self._returned, self._replay = self._record(self._function, self._inputs)
        for new, own in zip(inputs, self._inputs, strict=True):
            if new is not own:  # as a constant is
                own.copy_(new)
        self._replay()
        return tuple(tensor.clone() for tensor in self._returned)  # type: ignore[return-value]


def recorder(device: torch.device, *generators: torch.Generator) -> Record | None:
    """What records work on a device; None if that is no GPU.

    Args:
        device: Where the work is done.
        generators: That it draws from, beside torch's own: every replay draws anew.
    """
    if device.type != "cuda":
        return None

    def record(
        function: Callable[..., Tensors], inputs: Tensors
    ) -> tuple[Tensors, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # The current stream is put back by the outer block even if the recording fails. Threads
        # that load batches meanwhile may allocate memory.
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream()):
            stream = torch.cuda.Stream()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    returned = function(*inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise CaptureFailed(f"not recorded as a CUDA graph: {error}") from error
        return returned, graph.replay

    return record


def capturing() -> bool:
    """Whether what is done now is recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def replayable(network: nn.Module, images: torch.Tensor) -> bool:
    """Whether a network on a GPU never waits for it: tried on a copy, forwards and backwards.

    Args:
        network: As it is to be trained; unchanged.
        images: A batch, on the same device.
    """
    twin = copy.deepcopy(network).train()
    mode = torch.cuda.get_sync_debug_mode()
    with torch.random.fork_rng(devices=[images.device]):
        torch.cuda.set_sync_debug_mode("error")
        try:
            twin(images).sum().backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # "called a synchronizing CUDA operation"; of a bug training will tell
            return False
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return True


@contextmanager
def tensor_float32(device: torch.device) -> Iterator[None]:
    """Have a GPU multiply float32 with TensorFloat32's ten bits of mantissa, where it can.

    Mixed precision leaves little to float32, as Muon's iterations, which do not need more.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def on_device(numbers: Sequence[Sequence[float]], device: torch.device) -> torch.Tensor:
    """Numbers as float32 on a device, which is not waited for."""
    pinned = device.type == "cuda"
    return torch.tensor(numbers, dtype=torch.float32, pin_memory=pinned).to(
        device, non_blocking=True
    )
