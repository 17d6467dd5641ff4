"""Statistics of an unroll in which nothing happened."""

from rtrl_core import UnrollStatistics


def no_statistics() -> UnrollStatistics:
    return UnrollStatistics(
        policy_loss=0.0,
        value_loss=0.0,
        entropy=0.0,
        target_sum=0.0,
        target_square_sum=0.0,
        error_square_sum=0.0,
        sensitivity_norm=0.0,
        sensitivity_norm_max=0.0,
        streams_reset=0,
        sensitivity_age_mean=0.0,
        sensitivity_age_max=0,
        env_time_s=0.0,
        act_time_s=0.0,
        learn_time_s=0.0,
        wait_time_s=0.0,
        rss_bytes=0,
    )
