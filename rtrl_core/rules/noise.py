"""Random signs that are drawn from what a stream has seen: nothing to seed, nothing to save, the same again whenever a run goes on.

A digest of 64 bits stands for a stream at the end of an unroll. It is made of the digest before, the row of the stream, a seed, and the
bits of whatever is given (inputs, state, weights); the signs are a SplitMix64 sequence (Steele, Lea & Flood 2014) that starts from it.
Where one bit of all that differs, the signs have nothing to do with each other. Where none does, they are the same.
"""

from collections.abc import Iterable

import torch

from rtrl_core.shapes import Float, Int, Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as numbers of 64 bits with a sign, which torch has
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def mixed(bits: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The finaliser of SplitMix64, one to one."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def digests(
    before: Int[Tensor, " B"], seed: int, streams: Iterable[Tensor], common: Iterable[Tensor]
) -> Int[Tensor, " B"]:
    """
    Args:
        before: digest of each stream at the end of the unroll before; 0 at the start of an episode.
        streams: what each stream has seen, the stream as first axis.
        common: what all of them have in common.
    """
    rows = torch.arange(len(before), device=before.device)
    of_seed = mixed(torch.tensor(seed, device=before.device))
    digest = mixed(mixed(before + of_seed) + rows)
    for part in common:
        digest = mixed(digest + _fingerprints(part.reshape(1, -1)))
    for part in streams:
        digest = mixed(digest + _fingerprints(part.reshape(len(part), -1)))
    return digest


def signs(digest: Int[Tensor, " B"], num_signs: int, dtype: torch.dtype) -> Float[Tensor, "B S"]:
    """+1 or -1, each as likely as the other."""
    places = torch.arange(1, num_signs + 1, device=digest.device) * _GOLDEN
    return 1 - 2 * (mixed(digest.unsqueeze(1) + places) < 0).to(dtype)


def _fingerprints(rows: Tensor) -> Int[Tensor, " B"]:
    """Of the bits of each row: their sum with odd random factors, one per place."""
    rows = rows.contiguous()
    if rows.is_floating_point():
        rows = rows.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    factors = mixed(torch.arange(1, rows.shape[1] + 1, device=rows.device) * _GOLDEN) | 1
    return (rows.long() * factors).sum(1)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, filled with zeros, as if there were no sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
