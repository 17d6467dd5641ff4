"""What travels to a device: all of it in one copy, as it was when it was sent."""

from collections.abc import Sequence

import pytest
import torch

from actors.actor import build_actor
from actors.uploads import ALIGNMENT, BUFFERS, Upload, _Together
from actors.worker import ActorIdentity
from conf.load import load_train
from r2ac.training.sizing import sized
from rtrl_core import WeightsSnapshot

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def some(seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [
        torch.randint(0, 255, (3, 4, 5), dtype=torch.uint8),
        torch.randn(3),
        torch.rand(3) < 0.5,
        torch.randint(0, 10**9, (3, 2)),
        torch.randn(3, 0),
        torch.randn(7).to(torch.bfloat16),
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_everything_arrives_as_it_is_and_stays_so(device: str):
    together = _Together(some(), torch.device(device))
    arrived = []
    for seed in range(2 * BUFFERS + 1):
        sent = some(seed)
        arrived.append(together.copied(sent))
        for tensor in sent:
            tensor.zero_()
    for seed, tensors in enumerate(arrived):
        for one, other in zip(tensors, some(seed), strict=True):
            assert one.device.type == device
            assert one.dtype == other.dtype
            assert torch.equal(one.cpu(), other)
            assert not one.numel() or one.data_ptr() % ALIGNMENT == 0


def test_other_shapes_and_types_are_not_mistaken_for_the_last_ones():
    together = _Together(some(), torch.device("cpu"))
    assert together.fits(some(1))
    assert not together.fits(some()[:-1])
    assert not together.fits([tensor[:2] for tensor in some()])
    assert not together.fits([some()[0].float(), *some()[1:]])


def test_on_a_cpu_nothing_is_copied():
    sent = some()
    for one, other in zip(Upload(torch.device("cpu"))(sent), sent, strict=True):
        assert one is other


def test_what_a_network_sees_of_a_step_travels_once_and_pictures_as_bytes(monkeypatch: pytest.MonkeyPatch):
    sent: list[list[torch.dtype]] = []

    class Counted(Upload):
        def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            sent.append([tensor.dtype for tensor in tensors])
            return super().__call__(tensors)

    monkeypatch.setattr("actors.games.Upload", Counted)
    words = ["env=atari/breakout", "network=nature", "fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=5"]
    actor = build_actor(sized(load_train(words), 1), ActorIdentity(0, 0, 1))
    weights = WeightsSnapshot(0, actor.layout, actor.parameters.vector)
    for unrolls in (1, 2):
        actor.unroll(weights)
        assert len(sent) == 1 + 5 * unrolls, "what the games begin with, and each step"
    assert {tuple(dtypes) for dtypes in sent} == {(torch.uint8, torch.float32, *[torch.bool] * 4)}
    actor.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_whatever_is_sent_next_may_be_of_another_shape():
    upload = Upload(torch.device("cuda"))
    for count in (3, 2, 3):
        (there,) = upload([torch.arange(count)])
        assert there.tolist() == list(range(count))
