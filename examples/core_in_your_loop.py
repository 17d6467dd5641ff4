"""The recurrent core in a PyTorch loop of your own: a bit is shown once, and asked for after more steps than any unroll has.

    python examples/core_in_your_loop.py [delay] [updates]

Nothing here knows of agents, Ray or configurations: ``rtrl_core`` needs torch alone. Change the rule to ``tbptt`` and the answer stays
a guess, because no unroll holds both the bit and the question.
"""

import sys

import torch
from torch import nn
from torch.nn import functional

from rtrl_core import ELSTM

STREAMS, UNROLL = 64, 5


def main(delay: int = 20, updates: int = 300, rule: str = "segment") -> float:
    """Returns the share of right answers at the end."""
    torch.manual_seed(0)
    core, head = ELSTM(input_size=2, num_units=32, rule=rule, forget_bias=3.0), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], 0.005)
    state = core.initial_state(STREAMS)
    bits = torch.zeros(STREAMS)
    clock = torch.arange(STREAMS) % (delay + 1)  # streams are at different places of their episodes
    right: list[float] = []
    for update in range(updates):
        inputs, asked, answers = torch.zeros(UNROLL, STREAMS, 2), torch.zeros(UNROLL, STREAMS).bool(), []
        is_first = torch.zeros(UNROLL, STREAMS, dtype=torch.bool)
        for t in range(UNROLL):
            is_first[t] = clock == 0
            bits = torch.where(is_first[t], torch.randint(0, 2, (STREAMS,)).float(), bits)
            inputs[t, :, 0] = torch.where(is_first[t], 2 * bits - 1, 0)
            inputs[t, :, 1] = asked[t] = clock == delay
            answers.append(bits.clone())
            clock = (clock + 1) % (delay + 1)
        outputs, state = core(inputs, state, is_first)
        logits = head(outputs).squeeze(-1)[asked]
        wanted = torch.stack(answers)[asked]
        functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()
        right.append(float(((logits > 0) == (wanted > 0.5)).float().mean()))
        if (update + 1) % max(1, updates // 5) == 0:
            print(f"update {update + 1}: {100 * sum(right[-50:]) / len(right[-50:]):.0f} % right")
    return sum(right[-50:]) / len(right[-50:])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 300)
