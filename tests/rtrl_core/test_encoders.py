"""The contract of every encoder that has a name."""

from dataclasses import is_dataclass

import pytest
import torch
from torch import nn

from rtrl_core import ENCODERS
from rtrl_core.encoders import ImageEncoder, NatureEncoder, PlainEncoder, ShallowEncoder
from rtrl_core.pictures import image_input

PICTURES = [((4, 84, 84), "CHW", torch.uint8), ((72, 96, 3), "HWC", torch.uint8), ((64, 64, 3), "HWC", torch.float32)]
VECTORS = [((7,), "vector", torch.float32), ((2, 3), "vector", torch.float32)]


def observations(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape)).to(dtype) if dtype is torch.uint8 else torch.rand(count, *shape)


@pytest.mark.parametrize(("shape", "layout", "dtype"), [*PICTURES, *VECTORS], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_gives_its_features_stream_by_stream_or_says_that_it_cannot_read(name, shape, layout, dtype):
    kind = ENCODERS[name]
    assert is_dataclass(kind.Options)
    if issubclass(kind, ImageEncoder) and layout == "vector":
        with pytest.raises(ValueError, match="reads images, but the observations have shape"):
            kind(shape, layout, 16)
        return
    encoder = kind(shape, layout, 16)
    seen = observations(5, shape, dtype)
    kept = seen.clone()
    features = encoder(seen)
    assert features.shape == (5, encoder.features)
    assert features.dtype == torch.float32
    assert torch.equal(seen, kept)
    alone = torch.cat([encoder(seen[stream : stream + 1]) for stream in range(5)])
    torch.testing.assert_close(features, alone, rtol=1e-4, atol=1e-5)
    parameters = list(encoder.parameters())
    if parameters:
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_options_of_an_encoder_are_its_own_dataclass_and_change_it(name: str):
    kind = ENCODERS[name]
    shape, layout = ((4, 84, 84), "CHW") if issubclass(kind, ImageEncoder) else ((7,), "vector")
    torch.manual_seed(0)
    default = kind(shape, layout, 8)
    torch.manual_seed(0)
    explicit = kind(shape, layout, 8, kind.Options())
    assert default.options == explicit.options
    for ours, theirs in zip(default.parameters(), explicit.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_options_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="channels must be 1 to 16 numbers from 1 to 4096"):
        ENCODERS["impala"].Options(channels=())
    with pytest.raises(ValueError, match="hidden must be at most 64 numbers from 1 to 65536"):
        ENCODERS["mlp"].Options(hidden=(0,))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((3, 1, 9, 8), "CHW"),
        ((3, 4, 9, 8), "CHW"),
        ((3, 12, 9, 8), "CHW"),
        ((3, 9, 8, 3), "HWC"),
        ((1, 4, 9, 8), "CHW"),
    ],
)
def test_images_become_channels_last_numbers_from_0_to_1(
    shape: tuple[int, ...], layout: str, floats: bool, dtype: torch.dtype | None
):
    images = torch.rand(shape) if floats else torch.randint(0, 256, shape, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        maps = image_input(images, layout)
    channels_first = images if layout == "CHW" else images.permute(0, 3, 1, 2)
    expected = channels_first.to(dtype or torch.float32)
    torch.testing.assert_close(maps, expected if floats else expected.mul(1 / 255), rtol=0, atol=0)
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", [NatureEncoder, ShallowEncoder])
def test_the_smallest_picture_is_read_and_a_smaller_one_is_one_sentence(kind: type[PlainEncoder]):
    least = kind.smallest()
    assert kind((4, least, least), "CHW", 8)(observations(2, (4, least, least), torch.uint8)).shape == (2, 8)
    with pytest.raises(ValueError, match=f"needs images of at least {least}x{least}, got"):
        kind((4, least - 1, least), "CHW", 8)


def test_the_shallow_network_takes_about_a_third_of_the_arithmetic():
    def multiplications(name: str) -> int:
        encoder, found = ENCODERS[name]((4, 84, 84), "CHW", 256), []

        def count(module: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
            del given
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            found.append(weight.numel() * output[0].numel() // len(weight))

        for module in encoder.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        encoder(observations(1, (4, 84, 84), torch.uint8))
        return sum(found)

    assert multiplications("shallow") / multiplications("nature") == pytest.approx(1 / 3, abs=0.03)
