"""``rtrl-copy``: the copy task, supervised, with a weight update at every single time step from exact RTRL.

A sequence of bits is shown, then asked for again in the same order. Every bit that was asked for is scored: a predictor that
ignores what it was shown is right half of the time (the paper's own loader scored only the zeros).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from actors.precision import prepare_process
from conf.describe import describe
from conf.knobs import MAX_SEED, MAX_STEPS, knob
from conf.load import load_options
from r2ac.commands.user_mistakes import printed, reported
from rtrl_core import ELSTM, RULES, DiagonalRule
from rtrl_core.shapes import Float, Tensor

DIAGONAL_RULES = tuple(name for name, rule in RULES.items() if issubclass(rule, DiagonalRule))


@dataclass
class CopyConfig:
    length: int = knob(5, "bits to remember", minimum=1, maximum=100_000)
    num_units: int = knob(64, "N, units of the core", minimum=1, maximum=65_536)
    batch: int = knob(64, "sequences at a time", minimum=1, maximum=1_000_000)
    sequences: int = knob(1000, "batches to train on", minimum=1, maximum=MAX_STEPS)
    learning_rate: float = knob(0.003, "of Adam", minimum=0, maximum=1)
    online: bool = knob(True, "update at every time step; false adds up a sequence's gradients first")
    rule: str = knob("segment", "learning rule", choices=DIAGONAL_RULES)
    seed: int = knob(1, "of everything random", minimum=0, maximum=MAX_SEED)


@dataclass(frozen=True, slots=True)
class CopyScore:
    """Shares of what was asked for."""

    bits: float
    sequences: float
    """Of sequences without a mistake."""


class CopyLearner(nn.Module):
    """Inputs per step: bit, "shown now", "asked now". One logit per step: is the bit that is asked for a one?"""

    def __init__(self, num_units: int, rule: str) -> None:
        super().__init__()
        self.core = ELSTM(3, num_units, rule)
        self.head = nn.Linear(num_units, 1)


def problem(length: int, batch: int) -> tuple[Float[Tensor, "T B D"], Float[Tensor, "length B"]]:
    """Inputs of ``2 length`` steps, and the bits that are asked for in the second half."""
    bits = torch.randint(0, 2, (length, batch)).float()
    inputs = torch.zeros(2 * length, batch, 3)
    inputs[:length, :, 0] = 2 * bits - 1
    inputs[:length, :, 1] = 1
    inputs[length:, :, 2] = 1
    return inputs, bits


def train_sequence(model: CopyLearner, optimizer: torch.optim.Optimizer, config: CopyConfig) -> None:
    """One batch, one step at a time: the sensitivity carries the credit, no graph is kept from step to step."""
    inputs, bits = problem(config.length, config.batch)
    state = model.core.initial_state(config.batch)
    optimizer.zero_grad()
    for t, step in enumerate(inputs):
        is_first = torch.full((1, config.batch), t == 0)
        hidden, state = model.core(step.unsqueeze(0), state, is_first)
        asked = t - config.length
        if asked < 0:
            continue  # nothing is asked yet: no loss, and no step of the optimizer's moments either
        logits = model.head(hidden[0]).squeeze(-1)
        functional.binary_cross_entropy_with_logits(logits, bits[asked]).backward()
        if config.online or asked == config.length - 1:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def score(model: CopyLearner, length: int, batch: int = 1000) -> CopyScore:
    """On sequences never seen."""
    inputs, bits = problem(length, batch)
    cell, right = model.core.initial_state(batch).cell, []
    for t, step in enumerate(inputs):
        hidden, cell = model.core.step(step, cell, torch.full((batch,), t == 0))
        if t >= length:
            right.append((model.head(hidden).squeeze(-1) > 0) == (bits[t - length] > 0.5))
    correct = torch.stack(right)
    return CopyScore(float(correct.float().mean()), float(correct.all(0).float().mean()))


def run(config: CopyConfig, console: Console) -> CopyScore:
    torch.manual_seed(config.seed)
    prepare_process(1)  # one step of a small core is too little work to share
    model = CopyLearner(config.num_units, config.rule)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    for sequence in range(config.sequences):
        train_sequence(model, optimizer, config)
        if (sequence + 1) % max(1, config.sequences // 10) == 0:
            now = score(model, config.length)
            console.print(
                f"{sequence + 1:>8} batches   bits {100 * now.bits:5.1f} %   whole sequences {100 * now.sequences:5.1f} %"
            )
    return score(model, config.length)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed("usage: rtrl-copy [option=value ...]\n\n" + describe(CopyConfig))

    def program() -> int:
        run(load_options(CopyConfig, arguments), Console())
        return 0

    return reported(program)


if __name__ == "__main__":
    sys.exit(main())
