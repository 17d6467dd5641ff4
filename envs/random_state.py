"""The state of a numpy generator as words and numbers that a checkpoint can hold."""

from typing import Any

import numpy as np


def get_generator_state(generator: np.random.Generator) -> dict[str, Any]:
    state = generator.bit_generator.state
    return {
        # 128-bit integers: too wide for JSON numbers everywhere, so they travel as text.
        "state": {name: str(value) for name, value in state["state"].items()},
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Restores what ``get_generator_state`` returned, in a PCG64 generator."""
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {name: int(value) for name, value in state["state"].items()},
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }
