"""Which arithmetic a device is good at."""

import torch


def carries_bfloat16_well(device: torch.device) -> bool:
    """Whether the device computes convolutions faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
