"""Memory that trials have freed, and the C library has not."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give what is free back to the system, between trials; glibc alone can.

    glibc keeps freed memory for whoever asks next, and takes tensors of up to 32 MB from there.
    Networks of ever other shapes leave it in pieces: workers came to hold three times what they
    needed. That tensors never come from there would cost half of the speed (docs/results.md).
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
