"""Recurrent layers for ordinary PyTorch code: ``loss.backward()`` leaves the exact untruncated gradient in their ``.grad``.

    core = ELSTM(input_size=257, num_units=512)
    state = core.initial_state(batch_size)
    for inputs, is_first, targets in unrolls:                   # [T, B, D], [T, B]
        outputs, state = core(inputs, state, is_first)          # [T, B, N]
        loss_of(outputs, targets).backward()                    # credit reaches back to the start of each episode

The state is detached between calls: what happened earlier is credited through the sensitivity, not through an old graph.

This holds for one layer on given inputs. The gradient of the inputs ends at the start of the unroll, and with it that of whatever
computed them: below a recurrent layer an encoder or another recurrent layer is trained truncated, also under an exact rule.
"""

from rtrl_core.cores.averages import AverageCore
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.build import ACROSS_LAYERS, CORES, FEEDFORWARD, build_core, core_names
from rtrl_core.cores.cross_layer import CrossLayerStack
from rtrl_core.cores.diagonal import DiagonalCore
from rtrl_core.cores.feedforward import Feedforward
from rtrl_core.cores.gated import ELSTM, GatedCore
from rtrl_core.cores.refreshed import RefreshedCore
from rtrl_core.cores.retention import RetentionCore, RetNet
from rtrl_core.cores.stacked import StackedCore
from rtrl_core.cores.unrolled import UnrolledCore

__all__ = [
    "ACROSS_LAYERS",
    "CORES",
    "ELSTM",
    "FEEDFORWARD",
    "AverageCore",
    "Core",
    "CoreState",
    "CrossLayerStack",
    "DiagonalCore",
    "Feedforward",
    "GatedCore",
    "RefreshedCore",
    "RetNet",
    "RetentionCore",
    "StackedCore",
    "UnrolledCore",
    "build_core",
    "core_names",
]
