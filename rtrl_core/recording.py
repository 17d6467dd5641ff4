"""Work that is recorded once and done again with other numbers, as a CUDA graph does it: the host says nothing twice.

What is recorded may not depend on a number that the host would have to read: inside ``recording()`` the rules select by masks on the
device, where they otherwise look for the starts of episodes and leave out what is not needed. Results are the same.
"""

from collections.abc import Generator
from contextlib import contextmanager

_depth = 0
"""Of the process, not of a thread: on a GPU, autograd runs backward passes in threads of its own."""


@contextmanager
def recording() -> Generator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def is_recording() -> bool:
    return _depth > 0
