"""The shape vocabulary that every public signature uses.

Axes, always in this order (time-major):

    T   steps of an unroll              B   environments (streams) of one actor
    K   gates with an input matrix      P   per-unit parameter vectors (recurrent weights, biases)
    N   units of the recurrent core     D   core inputs (features + reward + ...)
    A   numbers that parameterise the policy's distribution (logits, or means and log-scales)

``is_first[t]`` is true where observation ``t`` starts a new episode.
The annotations cost nothing in production; the test suite checks them through jaxtyping's import hook.
"""

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor"]
