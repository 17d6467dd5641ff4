"""Books of a sound run add up, and whatever is changed in them is found."""

import copy
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_run import local_run

from benchmarks.chaos.audit import FORGOTTEN_S, KEPT, LOST, REPEATED_S, SUMS, examine, share_kept
from benchmarks.chaos.audited import AuditedLearner, AuditedPlan, Kind, Order, give, take
from benchmarks.chaos.ledger import Entry, Ledger, read
from conf.load import load_train
from r2ac.commands import train as training_program
from r2ac.training.sizing import sized

pytestmark = pytest.mark.seconds

Books = tuple[list[list[Entry]], list[list[Entry]]]
WORDS = [
    *(
        "experiment=tmaze",
        "env.corridor=4",
        "fleet=local",
        "fleet.num_actors=2",
        "actors.num_envs=4",
        "actors.unroll=3",
    ),
    *(
        "network.num_units=8",
        "learner.batch_segments=8",
        "learner.max_lag=8",
        "logging=quiet",
        "logging.interval_steps=240",
    ),
    *("logging.checkpoint_interval_steps=240", "algorithm=benchmarks.chaos.audited:Audited", "learner.target_lag=1"),
]
ORDERS = (
    Order(Kind.NOT_FINITE),
    Order(Kind.LATE, 0.01),
    Order(Kind.TWICE),
    Order(Kind.MEMORY, 0.01, 1),
    Order(Kind.TWICE),
)
"""Taken in turns by two actors. One that has shipped nothing yet has nothing to ship twice."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that was stopped once and went on, and whose actors were ordered to do all that they can be."""
    folder = tmp_path_factory.mktemp("chaos")
    for steps in ("total_steps=960", "total_steps=1920"):
        for number, order in enumerate(ORDERS):
            give(folder / "books", number, order)
        words = [*WORDS, steps, f"algorithm.options.folder={folder / 'books'}", f"run_dir={folder / 'run'}"]
        assert training_program.main(words) == 0
    return folder / "books"


@pytest.fixture
def books(folder: Path) -> Books:
    return copy.deepcopy((list(read(folder, "actor")), list(read(folder, "learner"))))


def entries(books: Books, event: str) -> list[Entry]:
    return [entry for book in (*books[0], *books[1]) for entry in book if entry["event"] == event]


def test_books_of_a_sound_run_add_up(books: Books) -> None:
    findings = examine(*books)
    assert findings.wrong == []
    counts = findings.counts
    assert counts["checks"] > 1000
    assert [counts[f"ordered: {kind}"] for kind in Kind] == [2, 4, 2, 2]
    assert (counts["refused"], counts["dropped"], counts[LOST]) == (2, 4, 0)
    assert counts["added"] == counts[KEPT] == counts["shipped"] - counts["refused"]
    assert counts["added"] * 4 * 3 == entries(books, "judged")[-1]["counters"]["agent_steps"] >= 1920


def added_twice(books: Books) -> None:
    for book in books[1]:
        for place, entry in enumerate(book):
            if entry["event"] == "added":
                book.insert(place, copy.deepcopy(entry))
                return


def changed(event: str, name: str, value: Callable[[Any], Any]) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        entry = entries(books, event)[3]
        entry[name] = value(entry[name])

    return change


def of_counters(name: str) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        entries(books, "judged")[5]["counters"][name] += 1

    return change


def begun_with_what_nobody_saved(books: Books) -> None:
    entries(books, "began")[-1]["weights"] += 1


def too_late(books: Books) -> None:
    next(entry for entry in entries(books, "judged") if entry["verdict"] == "accepted")["lag"] = 9


def broken_and_added(books: Books) -> None:
    entries(books, "shipped")[4]["fault"] = Kind.NOT_FINITE


def never_shipped(books: Books) -> None:
    added = entries(books, "added")[3]
    for book in books[0]:
        book[:] = [
            entry for entry in book if any(entry[name] != added[name] for name in ("actor", "start", "sequence"))
        ]


@pytest.mark.parametrize(("job", "what"), [("another", REPEATED_S), (None, FORGOTTEN_S)])
def test_seconds_that_a_death_has_cost_are_counted(job: str | None, what: str, books: Books) -> None:
    """The second learner begins with what the first handed out at its end; had that done more since, it would be lost."""
    *_, first, second = books[1]
    for entry in second:
        if job is not None and "job" in entry:
            entry["job"] = job
    assert examine(*books).counts[what] <= 1
    first.append({**first[-1], "event": "resized", "max_lag": None, "at": first[-1]["at"] + 12.5})
    assert examine(*books).counts[what] in (13, 14)


def test_the_share_of_steps_that_are_kept_is_of_each_minute_by_itself() -> None:
    def book(rate: Callable[[int], int]) -> list[Entry]:
        return [{"event": "added", "at": 100.5 + second, "steps": rate(second)} for second in range(120)]

    assert share_kept([book(lambda second: 10 if second < 60 else 30)], 100.0, 220.0) == 1.0
    # A quarter of the first minute lost; what came before and after is no part of it.
    lost = book(lambda second: 0 if second < 15 else 10)
    outside = [{"event": "added", "at": at, "steps": 1000} for at in (90.0, 221.0)]
    assert share_kept([lost[:30], [*lost[30:], *outside]], 100.0, 220.0) == 105 / 120


def gone_on_from_nothing(books: Books) -> None:
    last = entries(books, "began")[-1]
    after = {**last["counters"], "accepted": 12345}
    books[1][-1].insert(
        1, {**last, "event": "continued", "after": after, "version": last["version"] + 1, "sum": 0.0, "size": 0.0}
    )


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (added_twice, "was added 2 times"),
        (changed("added", "gradient", lambda old: old + 1), "was shipped with gradient"),
        (changed("added", "steps", lambda old: old + 1), "was shipped with steps"),
        (changed("added", "version", lambda old: old + 1), "was shipped with version"),
        (
            changed("shipped", "weights", lambda old: old + 1),
            "was made with weights that no learner had as that version",
        ),
        (changed("shipped", "weights", lambda old: old + 1), "made with other weights than this learner's"),
        (changed("updated", "sum", lambda old: old + 1), "is made of"),
        (changed("added", "weight", lambda old: 2 * old), "is made of"),
        (of_counters("agent_steps"), "agent_steps is"),
        (of_counters("accepted"), "accepted is"),
        (begun_with_what_nobody_saved, "which was never saved"),
        (too_late, "was added 9 versions late"),
        (broken_and_added, "which is not finite, was added"),
        (never_shipped, "was added and never shipped"),
        (gone_on_from_nothing, "goes on from counters that never were"),
    ],
)
def test_what_does_not_add_up_is_found(forge: Callable[[Books], None], said: str, books: Books) -> None:
    forge(books)
    assert any(said in wrong for wrong in examine(*books).wrong)


@pytest.fixture(scope="module")
def folder_of_sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a learner that got the same contributions in sums of two."""
    folder = tmp_path_factory.mktemp("sums")
    config = sized(load_train([*WORDS, f"algorithm.options.folder={folder}", "total_steps=1_000_000"]), 2)
    run = local_run(config)
    assert isinstance(run.plan, AuditedPlan)
    learner, adder = run.plan.resume(run.first), run.plan.adder()
    assert isinstance(learner, AuditedLearner)
    with closing(run.fleet):
        for number in range(20):
            if number == 10:
                give(folder, 0, Order(Kind.NOT_FINITE))
            snapshot = learner.snapshot()
            for actor_id in range(2):
                adder.add(run.unroll(actor_id, snapshot), snapshot.version)
            learner.add_sum(adder.take())
    return folder


Sums = tuple[list[list[Entry]], list[list[Entry]], list[list[Entry]]]


@pytest.fixture
def sums(folder_of_sums: Path) -> Sums:
    actors, learners, aggregators = (
        copy.deepcopy(list(read(folder_of_sums, name))) for name in ("actor", "learner", "aggregator")
    )
    return actors, learners, aggregators


def of_sums(sums: Sums, place: int, event: str) -> list[Entry]:
    return [entry for book in sums[place] for entry in book if entry["event"] == event]


def test_books_of_sums_add_up(sums: Sums) -> None:
    findings = examine(*sums)
    assert findings.wrong == []
    assert (findings.counts[SUMS], findings.counts["added"], findings.counts["refused"]) == (20, 39, 1)
    assert findings.counts[KEPT] == 39


def in_two_sums(sums: Sums) -> None:
    first, second, *_ = of_sums(sums, 1, "added sum")
    second["of"].append(first["of"][0])


def another_vector(sums: Sums) -> None:
    of_sums(sums, 1, "added sum")[3]["sum"] += 1


def never_added_up(sums: Sums) -> None:
    sums[2][0][:] = sums[2][0][5:]


def added_up_with_another_gradient(sums: Sums) -> None:
    of_sums(sums, 2, "added up")[3]["gradient"] += 1


def much_too_late(sums: Sums) -> None:
    of_sums(sums, 1, "judged")[0]["lag"] = 17


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (in_two_sums, "was added 2 times"),
        (another_vector, "a sum of 2 contributions is"),
        (never_added_up, "nobody had added it up"),
        (added_up_with_another_gradient, "was shipped with gradient"),
        (much_too_late, "was added 17 versions late"),
    ],
)
def test_a_sum_that_is_not_what_it_says_is_found(forge: Callable[[Sums], None], said: str, sums: Sums) -> None:
    forge(sums)
    assert any(said in wrong for wrong in examine(*sums).wrong)


def test_a_last_line_that_a_kill_has_torn_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "actor")
    ledger.write("first", number=1)
    (path,) = tmp_path.iterdir()
    with path.open("a") as file:
        file.write('{"event": "sec')
    (book,) = read(tmp_path, "actor")
    assert [(entry["event"], entry["number"]) for entry in book] == [("first", 1)]


def test_an_order_is_taken_once_and_the_oldest_first(tmp_path: Path) -> None:
    assert take(tmp_path) is None
    orders = [Order(Kind.LATE, 1.5), Order(Kind.MEMORY, 0.5, 7)]
    for number, order in enumerate(orders):
        give(tmp_path, number, order)
    assert [take(tmp_path), take(tmp_path), take(tmp_path)] == [*orders, None]
