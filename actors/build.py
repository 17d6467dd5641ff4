"""From configuration to objects: the network that fits an environment."""

import torch

from conf.knobs import ConfigError
from conf.schema import NetworkConfig
from envs.base import Discrete, EnvSpec
from rtrl_core.network import NetworkSpec, PolicyNetwork


def network_spec(network: NetworkConfig, rule: str, env: EnvSpec) -> NetworkSpec:
    return NetworkSpec(
        observation_shape=env.observation_shape,
        layout=env.layout,
        num_actions=env.actions.num_actions if isinstance(env.actions, Discrete) else env.actions.size,
        continuous=not isinstance(env.actions, Discrete),
        encoder=network.encoder,
        encoder_init=network.encoder_init,
        features=network.features,
        mlp_sizes=tuple(network.mlp_sizes),
        core=network.core,
        num_units=network.num_units,
        forget_bias=network.forget_bias,
        rule=rule,
        last_reward=network.last_reward,
        last_action=network.last_action,
        instruction=env.instruction_length > 0,
    )


def build_network(network: NetworkConfig, rule: str, env: EnvSpec) -> PolicyNetwork:
    """A freshly initialised network for an environment; seed torch first for a repeatable one.

    Raises:
        ConfigError: if the encoder does not fit the observation.
    """
    try:
        policy = PolicyNetwork(network_spec(network, rule, env))
    except ValueError as error:
        raise ConfigError(f"{env.name}: {error}") from None
    if network.freeze_encoder:
        policy.encoder.requires_grad_(False)
    return policy


def build_seeded_network(network: NetworkConfig, rule: str, env: EnvSpec, seed: int) -> PolicyNetwork:
    """The same network for the same seed, without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(network, rule, env)
