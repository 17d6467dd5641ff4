"""What travels to a device: all of it in one copy, as it was when it was sent."""

import pytest
import torch

from actors.uploads import ALIGNMENT, BUFFERS, Upload, _Together

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_whatever_is_sent_next_may_be_of_another_shape():
    upload = Upload(torch.device("cuda"))
    for count in (3, 2, 3):
        (there,) = upload([torch.arange(count)])
        assert there.tolist() == list(range(count))
