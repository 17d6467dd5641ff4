"""An encoder whose gradient has vanished is said to be dead, once; one that never had any is not."""

from r2ac.monitoring.metrics import Row
from r2ac.training.encoder_watch import ROWS, SENTENCE, EncoderWatch


def said(*stems: float | None, whole: float | None = 30.0) -> list[str | None]:
    watch = EncoderWatch()
    rows: list[Row] = [{"gradient_norm": whole, "gradient_norm_stem": stem} for stem in stems]
    return [watch.look(row) for row in rows]


def test_it_is_said_once_in_the_third_row_and_again_after_it_came_back():
    dead = [None] * (ROWS - 1) + [SENTENCE]
    assert said(20, *[0.0] * 9, 20, *[0.0] * 4) == [None, *dead, *[None] * 6, None, *dead, None]
    assert said(20, *[0.002] * 3) == [None, *dead]


def test_a_small_gradient_is_one_and_a_row_without_an_update_says_nothing():
    assert not any(said(20, *[0.1] * 9))
    assert said(20, 0.0, None, 0.0, None, 0.0) == [None] * 5 + [SENTENCE]
    assert not any(said(20, *[0.0] * 9, whole=0.0))
    assert not any(said(20, *[0.0] * 9, whole=None))


def test_one_that_never_had_a_gradient_is_frozen_or_there_is_none():
    assert not any(said(*[0.0] * 9))
