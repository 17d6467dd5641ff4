"""A run of weeks is not ended by restarts that are few and far between; one that can do nothing else is."""

import pytest

from actors import fleet
from actors.fleet import FleetError, RestartLimit, Restarts
from actors.worker import ActorIdentity


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minutes = 0.0
        monkeypatch.setattr(fleet.time, "monotonic", lambda: 60 * self.minutes)


def test_restarts_that_are_far_between_never_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limit = Clock(monkeypatch), RestartLimit(3, "restarts of the learner")
    for number in range(200):
        clock.minutes = 21.0 * number  # never four within an hour
        limit.record("a node left")
    assert limit.count == 200


def test_one_too_many_within_an_hour_ends_it_with_the_first_cause_of_that_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limit = Clock(monkeypatch), RestartLimit(3, "restarts of the learner")
    for clock.minutes, cause in ((0, "long ago"), (59, "the memory"), (61, "its echo"), (80, "another")):
        limit.record(cause)
    said = r"gave up after 3 restarts of the learner within an hour \(fleet\.max_restarts\); the first one was because: the memory"
    clock.minutes = 118.0
    with pytest.raises(FleetError, match=said):
        limit.record("the last")


def test_actors_share_a_limit_and_go_on_under_their_next_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    said: list[str] = []
    restarts = Restarts(2, said.append)
    first = restarts.record(ActorIdentity(5, 0, 1), "it died")
    assert restarts.record(first, "again") == ActorIdentity(5, 2, 1)
    assert restarts.count == 2
    assert said == ["actor 5 restarted (1 restarts so far): it died", "actor 5 restarted (2 restarts so far): again"]
    with pytest.raises(FleetError, match=r"gave up after 2 actor restarts within an hour"):
        restarts.record(ActorIdentity(6, 0, 1), "another one")


def test_none_are_allowed_where_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    with pytest.raises(FleetError, match="gave up after 0 actor restarts within an hour"):
        Restarts(0, print).record(ActorIdentity(0, 0, 1), "it died")
