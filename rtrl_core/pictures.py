"""Images as convolutions read them."""

import torch

from rtrl_core.shapes import Float, Shaped, Tensor


def image_input(
    observation: Shaped[Tensor, "B x y z"], layout: str, dtype: torch.dtype | None = None
) -> Float[Tensor, "B C H W"]:
    """uint8 images as channels-last floats in [0, 1], float ones as they are.

    Args:
        layout: ``CHW`` or ``HWC``.
        dtype: of the floats; else that of the surrounding autocast, or the default.
    """
    device = observation.device.type
    if dtype is None:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.get_default_dtype()
    if layout == "HWC":
        observation = observation.permute(0, 3, 1, 2)
    is_ready = observation.is_contiguous(memory_format=torch.channels_last)
    if layout == "CHW" and 1 < observation.shape[1] <= 4 and device == "cpu" and not is_ready:
        # A stack channel by channel, each read in order: up to twice as fast as all of them at once.
        maps = torch.empty(observation.shape, dtype=dtype, memory_format=torch.channels_last)
        for channel in range(observation.shape[1]):
            maps[:, channel] = observation[:, channel]
    else:
        maps = observation.to(dtype=dtype, memory_format=torch.channels_last)
    return maps if observation.is_floating_point() else maps.mul_(1 / 255)
