"""Every core under every rule that fits it: on the device it computes what it does on the CPU, whose numbers other tests have proved."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import patience
from torch import nn
from toy_actor import fidelity_errors, make_actor

from conf.schema import NetworkConfig, RuleConfig
from envs.tmaze import TMaze
from rtrl_core import RTRL, RULES, Core, carried
from rtrl_core.cores import FEEDFORWARD, RefreshedCore, build_core, core_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

D, N, B = 5, 8, 3
UNROLLS = (4, 1, 7, 4, 3)


def fits(core: str, rule: str) -> bool:
    try:
        build_core(core, D, N, rule)
    except ValueError:
        return False
    return True


CASES = [
    (core, rule, layers, "local")
    for core in core_names()
    for rule in RULES
    for layers in ((1,) if core == FEEDFORWARD else (1, 2))
    if fits(core, rule)
]
CASES += [(core, "segment", 2, "exact") for core in ("elstm", "slstm", "lru")]


def streamed(core: Core, device: str, in_place: bool) -> list[list[torch.Tensor]]:
    """Outputs and gradients, and what is carried, of one unroll after the other, with episodes that begin inside and weights that change
    between."""
    core = core.to(device, torch.float64)
    if in_place:
        core.advance_in_backward()
    generator = torch.Generator().manual_seed(3)
    state, numbers = core.initial_state(B), []
    for unroll, length in enumerate(UNROLLS):
        x = torch.randn(length, B, D, generator=generator, dtype=torch.float64).to(device).requires_grad_()
        is_first = (torch.rand(length, B, generator=generator) < 0.2).to(device)
        is_first[0] |= unroll == 0
        outputs, state = core(x, state, is_first)
        core.zero_grad()
        outputs.sin().sum().backward()
        core.settle(state)
        gradients = [p.grad for p in core.parameters() if p.grad is not None]
        assert x.grad is not None
        kept = carried.save(state)
        numbers += [[outputs.detach(), x.grad, *gradients], list(carried.leaves(carried.load(state, kept)))]
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.mul_(0.99)
        state = core.refreshed(state)
    return [[number.cpu() for number in part] for part in numbers]


def assert_same(expected: list[list[torch.Tensor]], found: list[list[torch.Tensor]]) -> None:
    for parts in zip(expected, found, strict=True):
        for one, other in zip(*parts, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("core", "rule", "layers", "across"), CASES)
def test_the_numbers_are_those_of_the_cpu(core: str, rule: str, layers: int, across: str, in_place: bool):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        results.append(streamed(build_core(core, D, N, rule, layers=layers, across_layers=across), device, in_place))
    if rule == "uoro":  # a bit that differs draws other signs: before the end of the first unroll there is no noise
        results = [numbers[:1] for numbers in results]
    assert_same(*results)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["elstm", "lru", "lstm", "retnet"])
def test_a_refresh_computes_there_what_it_computes_on_the_cpu(name: str, in_place: bool):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        core = build_core(name, D, N, "snap1" if name == "lstm" else "segment")
        results.append(streamed(RefreshedCore(core, window=9, every=2, unroll=7), device, in_place))
    assert_same(*results)


@pytest.mark.parametrize("core", [name for name in core_names() if name != FEEDFORWARD])
def test_in_an_actor_on_the_device_credit_is_that_of_a_fresh_computation(core: str):
    rule = "segment" if fits(core, "segment") else "snap1"
    actor = make_actor(
        TMaze(4, 1, corridor=6),
        unroll=3,
        network=NetworkConfig(encoder="none", num_units=8, core=core, layers=2),
        rule_config=RuleConfig(rule, refresh=0 if core == "ema" else 6, refresh_every=2),
        fidelity_every=1,
        fidelity_steps=60,
        device="cuda",
    )
    errors = fidelity_errors(actor)
    if actor.network.core.carries_sensitivity:
        assert errors
        assert max(errors) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_layer_works_under_autocast_and_what_it_carries_stays_in_full_precision(dtype: torch.dtype):
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Linear(D, D), RTRL(D, N, num_layers=2), nn.Linear(N, 1)]).to("cuda")
    encoder, layer, head = network
    results = []
    for enabled in (False, True):
        state = None
        network.zero_grad()
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            x = torch.randn(6, B, D, generator=generator).to("cuda")
            with torch.autocast("cuda", dtype, enabled=enabled):
                outputs, state = layer(torch.tanh(encoder(x)), state)
                head(outputs).float().square().mean().backward()
        assert all(leaf.dtype == torch.float32 for leaf in carried.leaves(state) if leaf.is_floating_point())
        results.append(torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*results, dim=0) > 0.999


@pytest.mark.parametrize("case", ["through-autograd", "stacked-tbptt", "inductor", "core-segment"])
def test_compiled_it_computes_the_same(case: str):
    program = Path(__file__).parents[1] / "compiled_layer.py"
    command = [sys.executable, "-W", "ignore", str(program), "device=cuda", case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(280), check=False)
    assert done.returncode == 0, done.stderr[-2000:]
