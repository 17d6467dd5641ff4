"""Devices: whether one is there, which arithmetic it is good at, and how a process of ours uses its cores."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conf.knobs import ConfigError


def prepare_process(threads: int) -> None:
    """For a process that does nothing but arithmetic of ours: without a limit, torch takes every core of the machine."""
    torch.set_num_threads(threads)
    # Long decays end in numbers so small that a CPU computes them tens of times slower; they mean nothing here.
    torch.set_flush_denormal(True)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_device(option: str, name: str) -> torch.device:
    """The device that ``option`` names.

    Raises:
        ConfigError: if there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        here = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise ConfigError(f"{option}={name}: there is no such device here; this machine has {here}") from None
    return device


def carries_bfloat16_well(device: torch.device) -> bool:
    """Whether the device computes convolutions faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def autocast_type(autocast: str, device: torch.device) -> torch.dtype | None:
    """What ``autocast`` = ``float32``, ``bfloat16`` or ``auto`` means on this device: the type that an encoder computes in; ``None`` is its
    own."""
    if autocast == "auto":
        return torch.bfloat16 if carries_bfloat16_well(device) else None
    return {"float32": None, "bfloat16": torch.bfloat16}[autocast]
