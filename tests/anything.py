"""How what is parsed is fed with anything: many cases, the same in every run, none of them a matter of time."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# No subnormal numbers: where an earlier test has trained in this process, the processor flushes them to zero, and hypothesis refuses.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def cases(count: int) -> settings:
    unimportant = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    unimportant += [HealthCheck.function_scoped_fixture, HealthCheck.large_base_example]
    return settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=unimportant
    )


YAML_PIECES = [
    "env:",
    " suite: tmaze",
    "\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!int ",
    "${seed}",
    "${oc.env:HOME}",
    "null",
    "1e999",
    "'",
    "2001-99-99",
]
"""What a stored configuration could be made of."""
WORDS = st.text(max_size=12) | st.lists(st.sampled_from(YAML_PIECES), max_size=8).map("".join)
