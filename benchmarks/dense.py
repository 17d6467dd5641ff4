"""Dense cells under their rules: time of an unroll against truncated backpropagation of the cell, and against an exact eLSTM."""

import torch

from benchmarks.measurement import Result, in_turns, informs
from rtrl_core import ELSTM, RECURRENT_CELLS, Core, UnrolledCore, carried

RULES = ("tbptt", "snap1", "leak", "uoro")
UNITS, INPUTS, STREAMS, STEPS = 128, 65, 8, 20


def run(seconds: float) -> list[Result]:
    del seconds
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dense = {f"{cell}_{rule}": _Unrolls(_dense(cell, rule)) for cell in RECURRENT_CELLS for rule in RULES}
    elstm = _Unrolls(ELSTM(INPUTS, UNITS))
    times = in_turns({**{name: each.step for name, each in dense.items()}, "elstm": elstm.step}, rounds=31, warmup=2)
    setting = f"T={STEPS} B={STREAMS} N={UNITS} D={INPUTS}, float32, forward and backward, 1 thread"
    results: list[Result] = []
    for name, each in dense.items():
        of_tbptt = times[name] / times[f"{name.partition('_')[0]}_tbptt"]
        results.append(informs(f"dense/{name}_vs_tbptt", of_tbptt, "x the time", setting))
        results.append(informs(f"dense/{name}_vs_elstm_segment", times[name] / times["elstm"], "x the time", setting))
        results.append(informs(f"dense/{name}_carried", each.carried_bytes / STREAMS, "bytes per stream", setting))
    return results


def _dense(cell: str, rule: str) -> Core:
    return UnrolledCore(RECURRENT_CELLS[cell](INPUTS, UNITS), rule)


class _Unrolls:
    """One core, carrying its state from unroll to unroll as an actor does."""

    def __init__(self, core: Core) -> None:
        torch.manual_seed(0)
        self._core = core
        core.advance_in_backward()
        self._inputs = (0.1 * torch.randn(STEPS, STREAMS, INPUTS)).requires_grad_()
        self._weights = torch.randn(STEPS, STREAMS, core.output_size)
        self._is_first = torch.zeros(STEPS, STREAMS, dtype=torch.bool)
        self._is_first[STEPS // 3, ::5] = True
        self._state = core.initial_state(STREAMS)
        self.carried_bytes = carried.size_bytes(self._state.sensitivity)

    def step(self) -> None:
        self._core.zero_grad()
        self._inputs.grad = None
        outputs, self._state = self._core(self._inputs, self._state, self._is_first)
        outputs.backward(self._weights)
