"""Instructions as word hashes: the same in every process and on every machine, which Python's own ``hash`` of a string is not."""

import zlib

import numpy as np

MAX_WORDS = 16
"""IMPALA's limit; the longest instruction of the language levels has fewer."""


def word_hashes(instruction: str, length: int = MAX_WORDS) -> np.ndarray:
    """int64 ``[length]``: a positive hash per word, 0 where there is none; further words are left out."""
    hashes = np.zeros(length, np.int64)
    for position, word in enumerate(instruction.lower().split()[:length]):
        hashes[position] = zlib.crc32(word.encode()) + 1
    return hashes
