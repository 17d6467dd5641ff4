"""The recurrent core alone: the segment rule against the step-by-step reference, against truncated BPTT, and against memory itself."""

import torch

from benchmarks.measurement import Result, at_least, at_most, in_turns, informs
from rtrl_core import DiagonalCore, Sensitivity

RULES = ("reference", "segment", "tbptt")


def run(seconds: float) -> list[Result]:
    del seconds
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    results: list[Result] = []
    for steps, streams, units, times_faster, of_tbptt in ((100, 32, 512, 15.0, 1.4), (50, 32, 256, 4.0, 1.3)):
        setting = f"T={steps} B={streams} N={units} D=257, float32, forward and backward, 2 threads"
        problems = {rule: Problem(rule, steps, streams, units, 257) for rule in RULES}
        slow = in_turns({rule: problems[rule].step for rule in ("reference", "segment")}, rounds=3)
        results.append(
            at_least(
                f"core/segment_vs_reference_N{units}",
                slow["reference"] / slow["segment"],
                times_faster,
                "x faster",
                setting,
            )
        )
        fast = in_turns({rule: problems[rule].step for rule in ("segment", "tbptt")}, rounds=41, warmup=3)
        results.append(
            at_most(f"core/segment_vs_tbptt_N{units}", fast["segment"] / fast["tbptt"], of_tbptt, "x the time", setting)
        )
        results.append(informs(f"core/segment_ms_N{units}", 1000 * fast["segment"], "ms", setting))
        results.append(
            at_most(
                f"core/error_float32_N{units}",
                _disagreement(steps, streams, units, 257, torch.float32),
                1e-5,
                "relative",
                setting,
            )
        )
        del problems
    setting = "T=100 B=4 N=64 D=33, float64, two unrolls"
    results.append(
        at_most("core/error_float64", _disagreement(100, 4, 64, 33, torch.float64), 1e-9, "relative", setting)
    )
    results += _single_step()
    return results


class Problem:
    """One rule at one size, carrying its sensitivity from step to step as an actor does."""

    def __init__(
        self, rule: str, steps: int, streams: int, units: int, inputs: int, dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        self.core = DiagonalCore(inputs, units, "elstm", rule).to(dtype)
        self.core.advance_in_backward()
        self.inputs = (0.1 * torch.randn(steps, streams, inputs, dtype=dtype)).requires_grad_()
        self.weights = torch.randn(steps, streams, units, dtype=dtype)
        self.is_first = torch.zeros(steps, streams, dtype=torch.bool)
        self.is_first[steps // 3, ::5] = True
        self.state = self.core.initial_state(streams)

    def step(self) -> torch.Tensor:
        self.core.zero_grad()
        self.inputs.grad = None
        outputs, self.state = self.core(self.inputs, self.state, self.is_first)
        outputs.backward(self.weights)
        assert self.core.matrices.grad is not None
        return self.core.matrices.grad


def _disagreement(steps: int, streams: int, units: int, inputs: int, dtype: torch.dtype) -> float:
    """Largest difference between the gradients of segment and reference in the second unroll, relative to the largest gradient."""
    gradients = []
    for rule in ("reference", "segment"):
        problem = Problem(rule, steps, streams, units, inputs, dtype)
        problem.step()
        gradients.append(problem.step())
    return float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())


def _single_step() -> list[Result]:
    """Online RTRL, a gradient at every step, against copying the sensitivity once: one read and one write of the same memory."""
    streams, units = 32, 512
    problem = Problem("segment", 1, streams, units, 257)
    source, target = (
        Sensitivity.zeros(streams, problem.core.matrices.detach(), problem.core.vectors.detach()) for _ in range(2)
    )

    def copy() -> None:
        for into, out in zip(target, source, strict=True):
            into.copy_(out)

    times = in_turns({"step": problem.step, "copy": copy}, rounds=41, warmup=3)
    setting = f"T=1 B={streams} N={units} D=257, float32, forward and backward, 2 threads"
    return [at_most("core/single_step_vs_memory", times["step"] / times["copy"], 1.6, "x the time", setting)]
