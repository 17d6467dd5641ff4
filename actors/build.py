"""From configuration to objects: the network that fits an environment."""

import torch

from actors.parts import core_part, encoder_part, require_refresh, rule_part
from conf.knobs import ConfigError
from conf.schema import NetworkConfig, RuleConfig
from envs.actions import Discrete, MultiDiscrete
from envs.base import EnvSpec
from rtrl_core.cores import RefreshedCore
from rtrl_core.network import NetworkSpec, PolicyNetwork
from rtrl_core.policies import ActionDistribution, Categorical, DiagonalGaussian, FactoredCategorical, QValues


def distribution(env: EnvSpec, heads: str = "policy") -> ActionDistribution:
    """The family of policies for an environment's actions.

    Raises:
        ConfigError: if each action is to have a value, and they cannot be counted.
    """
    actions = env.actions
    if heads == "dueling":
        if not isinstance(actions, Discrete):
            kind = "several choices at once" if isinstance(actions, MultiDiscrete) else "a vector"
            raise ConfigError(
                f"an action of {env.name} is {kind}, but network.heads=dueling (algorithm=r2d2) values each action of a "
                "list: use an environment with one choice per step, or algorithm=r2ac or impala"
            )
        return QValues(actions.num_actions)
    if isinstance(actions, Discrete):
        return Categorical(actions.num_actions)
    if isinstance(actions, MultiDiscrete):
        return FactoredCategorical(actions.sizes)
    return DiagonalGaussian(actions.size)


def network_spec(network: NetworkConfig, rule: RuleConfig, env: EnvSpec) -> NetworkSpec:
    """Raises ``ConfigError`` for a part that does not exist, or an option that it does not have."""
    encoder, encoder_options = encoder_part(network)
    core, core_options = core_part(network)
    return NetworkSpec(
        observation_shape=env.observation_shape,
        layout=env.layout,
        actions=distribution(env, network.heads),
        encoder=encoder,
        encoder_options=encoder_options,
        encoder_init=network.encoder_init,
        features=network.features,
        core=core,
        core_options=core_options,
        num_units=network.num_units,
        rule=rule_part(rule),
        layers=network.layers,
        across_layers=rule.across_layers,
        last_reward=network.last_reward,
        last_action=network.last_action,
        instruction=env.instruction_length > 0,
        heads=network.heads,
        head_sizes=tuple(network.head_sizes),
        critic=network.critic,
        normalise_outputs=network.normalise_outputs,
        normalise_observations=network.normalise_observations,
        scale_rewards=network.scale_rewards,
        standardise_images=network.standardise_steps > 0,
    )


def build_network(network: NetworkConfig, rule: RuleConfig, env: EnvSpec) -> PolicyNetwork:
    """A freshly initialised network for an environment; seed torch first for a repeatable one.

    Raises:
        ConfigError: if a part does not exist, or does not fit the observation or another part.
    """
    spec = network_spec(network, rule, env)
    try:
        policy = PolicyNetwork(spec)
    except ValueError as error:
        raise ConfigError(f"{env.name}: {error}") from None
    if network.freeze_encoder:
        policy.encoder.requires_grad_(False)
    return policy


def build_seeded_network(network: NetworkConfig, rule: RuleConfig, env: EnvSpec, seed: int) -> PolicyNetwork:
    """The same network for the same seed, without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(network, rule, env)


def carry_refreshed(network: PolicyNetwork, config: NetworkConfig, rule: RuleConfig, unroll: int) -> None:
    """Lets the core of an actor be refreshed as ``rule`` says. What it acts and learns with keeps its names, and its weights.

    Raises:
        ConfigError: see ``require_refresh``.
    """
    require_refresh(config, rule, unroll)
    if rule.refresh:
        if not network.core.carries_sensitivity:  # a core of somebody's own that does not ask the rule
            raise ConfigError(
                f"rule.refresh={rule.refresh}: network.core={config.core} carries no sensitivity to refresh"
            )
        network.core = RefreshedCore(network.core, window=rule.refresh, every=rule.refresh_every, unroll=unroll)
