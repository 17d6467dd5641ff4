"""A small actor for an environment, and the weights that it has at the start."""

from actors.actor import Actor
from actors.worker import ActorIdentity
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig
from rtrl_core import DiagonalCore, GatedCore, PolicyNetwork, WeightsSnapshot


def make_actor(
    env,
    *,
    unroll=4,
    core="elstm",
    rule="segment",
    rule_config: RuleConfig | None = None,
    loss: LossConfig | None = None,
    greedy=False,
    network: NetworkConfig | None = None,
    passes=1,
    **options,
) -> Actor:
    """``env`` is one environment, or a list of those of its groups of streams."""
    envs = env if isinstance(env, list) else [env]
    network = network or NetworkConfig(encoder="mlp", mlp_sizes=[8], features=5, core=core, num_units=6)
    options = {"autocast": "float32", **options}
    loss = loss or LossConfig()
    actor = Actor(
        ActorIdentity(0, 0, 1),
        envs,
        network,
        rule_config or RuleConfig(rule),
        loss,
        ActorsConfig(num_envs=sum(env.num_envs for env in envs), unroll=unroll, pipeline=len(envs), **options),
        "none",
        passes,
    )
    if greedy:
        distribution = actor.network.distribution
        distribution.sample = lambda parameters, generator=None: distribution.mode(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return actor


def present_weights(actor: Actor, version: int = 0) -> WeightsSnapshot:
    return WeightsSnapshot(version, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())


def fidelity_errors(actor: Actor, unrolls: int = 8) -> list[float]:
    """Of so many unrolls whose weights are new and the same, where fidelity was measured."""
    errors: list[float] = []
    for version in range(unrolls):
        contribution = actor.unroll(present_weights(actor, version))
        assert contribution.gradient.isfinite().all()
        if (error := contribution.statistics.sensitivity_fidelity_error) is not None:
            errors.append(error)
    return errors


def core_of(network: PolicyNetwork) -> tuple[GatedCore, DiagonalCore]:
    """The output gate's core, and the diagonal one inside it."""
    gated = network.core
    assert isinstance(gated, GatedCore)
    assert isinstance(gated.core, DiagonalCore)
    return gated, gated.core
