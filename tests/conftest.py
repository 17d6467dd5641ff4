"""What every test shares: shapes are checked in our signatures, torch takes no more than a core, and no signal is ignored."""

import signal

from jaxtyping import install_import_hook

install_import_hook(["rtrl_core", "actors", "learner", "r2ac"], "beartype.beartype")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

TRAIN_FOR_LONG = {
    "test_copy.py",
    "test_own_environments.py",
    "test_refusals.py",
    "test_resume.py",
    "test_runaway_streams.py",
}
"""Files whose programs call what others check already, so often that checking it is two thirds of their time."""

# Whoever started the tests may ignore signals (nohup, a shell's background): programs that they start would ignore them too.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _shapes_are_checked(request: pytest.FixtureRequest) -> None:
    jaxtyping.config.update("jaxtyping_disable", request.path.name in TRAIN_FOR_LONG)
