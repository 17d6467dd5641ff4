"""What every test shares: shapes are checked in all of our signatures, and torch takes no more than a core."""

from jaxtyping import install_import_hook

install_import_hook(["rtrl_core", "actors", "learner"], "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
