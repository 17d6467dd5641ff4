"""Images less what they have in common."""

import numpy as np
import pytest
import torch

from rtrl_core import Encoder, FlatParameters, PolicyNetwork
from rtrl_core.network import NetworkSpec
from rtrl_core.pictures import image_input
from rtrl_core.policies import Categorical
from rtrl_core.standardise import LEAST_DEVIATION, LIMIT, StandardisedImages

SHAPES = [((4, 9, 8), "CHW"), ((1, 9, 8), "CHW"), ((9, 8, 3), "HWC")]


def pictures(count: int, shape: tuple[int, ...], floats: bool) -> torch.Tensor:
    """Some pixels differ much, some little, and the first row not at all."""
    torch.manual_seed(count)
    spread = torch.linspace(0, 255, shape[0] * shape[1] * shape[2]).view(shape)
    found = (torch.rand(count, *shape) * spread).to(torch.uint8)
    found[:, 0] = 7
    return found.float() / 255 if floats else found


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize(("shape", "layout"), SHAPES)
def test_every_pixel_is_standardised_by_what_was_measured_and_keeps_its_layout(
    shape: tuple[int, ...], layout: str, floats: bool
):
    module, seen, new = StandardisedImages(shape, layout), pictures(50, shape, floats), pictures(7, shape, floats)
    module.measure([seen[:20], seen[20:]])
    as_numbers = [images.numpy().astype(np.float64) / (1 if floats else 255) for images in (seen, new)]
    deviation = np.maximum(as_numbers[0].std(0), LEAST_DEVIATION)
    expected = np.clip((as_numbers[1] - as_numbers[0].mean(0)) / deviation, -LIMIT, LIMIT)
    found = module(new)
    assert found.shape == new.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    assert abs(found[:, 0]).max() < 1e-5, "what never changed says nothing"
    odd = torch.full_like(new, 1.0 if floats else 255)
    assert float(module(odd)[:, 0].max()) == LIMIT, "what was never seen says no more than this"
    maps = found if layout == "CHW" else found.permute(0, 3, 1, 2)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert image_input(found, layout).data_ptr() == found.data_ptr(), "the encoder need not copy it"


@pytest.mark.parametrize(("shape", "layout"), SHAPES)
def test_without_a_measurement_pixels_stay_as_they_are(shape: tuple[int, ...], layout: str):
    module, new = StandardisedImages(shape, layout), pictures(7, shape, floats=False)
    assert torch.equal(module(new), new.float() * (1 / 255))
    module.measure([])
    assert torch.equal(module(new), new.float() * (1 / 255))


def test_it_is_measured_in_the_full_precision_whatever_the_network_computes_in():
    module = StandardisedImages((4, 9, 8), "CHW")
    module.measure([pictures(50, (4, 9, 8), floats=False)])
    new = pictures(7, (4, 9, 8), floats=False)
    expected = module(new)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(new), expected)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_its_numbers_travel_with_the_weights_and_take_no_gradient(critic: str):
    def network() -> PolicyNetwork:
        return PolicyNetwork(
            NetworkSpec(
                (4, 36, 36), "CHW", Categorical(3), "nature", features=5, num_units=4, critic=critic,
                standardise_images=True,
            )
        )  # fmt: skip

    one, other = network(), network()
    assert one.standardised is not None
    one.standardised.measure([pictures(50, (4, 36, 36), floats=False)])
    sent, received = FlatParameters(one), FlatParameters(other)
    received.load(sent.vector)
    new = pictures(3, (4, 36, 36), floats=False)
    assert torch.equal(one.encode(new), other.encode(new))
    one.encode(new).square().sum().backward()
    for slot in sent.layout.slots:
        assert bool(slot.view(sent.gradient).any()) is slot.name.startswith("encoder."), slot.name


class OnesOwn(Encoder):
    """Knows of pixels only."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        assert observation.dtype == torch.uint8
        return observation.flatten(1)[:, : self.features].float() / 255


@pytest.mark.parametrize("encoder", [OnesOwn, "none", "mlp"])
def test_an_encoder_that_does_not_say_so_gets_pixels(encoder: str | type[Encoder]):
    spec = NetworkSpec((4, 9, 8), "CHW", Categorical(3), encoder, features=5, num_units=4, standardise_images=True)
    network = PolicyNetwork(spec)
    assert network.standardised is None
    assert network.encode(pictures(3, (4, 9, 8), floats=False)).shape[0] == 3


@pytest.mark.parametrize("encoder", ["impala", "nature", "shallow", "stream_conv"])
@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3)])
def test_what_reads_pictures_takes_them(encoder: str, shape: tuple[int, ...]):
    layout = "CHW" if shape[0] == 4 else "HWC"
    network = PolicyNetwork(NetworkSpec(shape, layout, Categorical(3), encoder, num_units=4, standardise_images=True))
    assert network.standardised is not None
    new = pictures(3, shape, floats=False)
    before = network.encode(new)
    network.standardised.measure([pictures(40, shape, floats=False)])
    assert not torch.allclose(network.encode(new), before)


def test_a_vector_is_left_alone():
    spec = NetworkSpec((6,), "vector", Categorical(3), "mlp", num_units=4, standardise_images=True)
    assert PolicyNetwork(spec).standardised is None
