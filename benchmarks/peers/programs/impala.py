"""RLlib's IMPALA with an LSTM on Breakout: PROGRAM FOLDER SEED RUNNERS STREAMS UNITS"""

import logging
import sys

import ale_py
import gymnasium
import ray
from games import recorded
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack
from ray.tune.registry import register_env


def main() -> int:
    folder, (seed, runners, streams, units) = sys.argv[1], map(int, sys.argv[2:6])

    def make(options) -> gymnasium.Env:
        env = recorded("BreakoutNoFrameskip-v4", folder, gymnasium, ale_py)
        env = wrap_atari_for_new_api_stack(env, dim=84, framestack=4)
        return gymnasium.wrappers.TransformReward(env, lambda reward: max(-1.0, min(1.0, float(reward))))

    register_env("breakout", make)
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    network = DefaultModelConfig(
        conv_filters=[(32, 8, 4), (64, 4, 2), (64, 3, 1)],
        conv_activation="relu",
        head_fcnet_hiddens=[],
        vf_share_layers=True,
        use_lstm=True,
        lstm_cell_size=units,
        max_seq_len=20,
    )
    config = (
        IMPALAConfig()
        .environment("breakout")
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=streams, rollout_fragment_length=50)
        .learners(num_learners=0)
        .rl_module(model_config=network)
        .debugging(log_level="ERROR", seed=seed)
    )
    algorithm = config.build_algo()
    while True:
        algorithm.train()


if __name__ == "__main__":
    sys.exit(main())
