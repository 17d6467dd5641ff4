"""What every contribution says of the unroll behind it, whatever it ships: who made it, how large it was, how its streams are."""

from typing import Any

import psutil

from actors.accounts import Played
from actors.worker import ActorIdentity
from rtrl_core import ContributionHeader
from rtrl_core.shapes import Bool, Float, Int, Tensor

_PROCESS = psutil.Process()


def header_of(identity: ActorIdentity, sequence: int, policy_version: int, played: Played) -> ContributionHeader:
    """
    Args:
        sequence: contributions of this actor before, since it was started.
    """
    return ContributionHeader(
        actor_id=identity.actor_id,
        incarnation=identity.incarnation,
        sequence=sequence,
        policy_version=policy_version,
        num_steps=played.num_steps,
        num_frames=played.num_frames,
        num_segments=played.num_streams,
    )


def statistics_of_streams(
    played: Played,
    *,
    carries_sensitivity: bool,
    begun_anew: Bool[Tensor, " B"],
    norms: Float[Tensor, " B"],
    ages: Int[Tensor, " B"],
) -> dict[str, Any]:
    """The fields of ``UnrollStatistics`` that do not depend on what was learned.

    Args:
        begun_anew: streams that nothing could be learned from any more.
        norms: of the sensitivity of each; those that are not finite are left out.
    """
    norms = norms[norms.isfinite()]
    return {
        "sensitivity_norm": float(norms.square().mean().sqrt()) if len(norms) else 0.0,
        "sensitivity_norm_max": float(norms.max()) if len(norms) else 0.0,
        "streams_reset": int(begun_anew.sum()),
        "sensitivity_age_mean": float(ages.float().mean()) if carries_sensitivity else 0.0,
        "sensitivity_age_max": int(ages.max()) if carries_sensitivity else 0,
        "rss_bytes": _PROCESS.memory_info().rss,
        "episodes": played.episodes,
        "level_steps": played.level_steps,
        "env_counters": played.env_counters,
    }
