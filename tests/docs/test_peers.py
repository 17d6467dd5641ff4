"""What is said of this program beside its peers is what their files hold; what is watched is all of a program, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import ale_py
import gymnasium
import pytest
from patience import wait_until

import benchmarks.peers.compare as installing
from benchmarks import __main__ as program
from benchmarks import peers
from benchmarks.measurement import NotMeasured
from benchmarks.peers import watch
from benchmarks.peers.__main__ import main
from benchmarks.peers.compare import PEERS, PROGRAMS, Peer, installed, measured
from benchmarks.peers.page import publish, table, write
from benchmarks.peers.programs.games import Games, recorded
from benchmarks.peers.store import DATA, PeerRun, Runs
from benchmarks.peers.watch import Count, GamesOf, Processes, RowsOf, marked
from conf.load import load_train
from r2ac.commands import train

MINUTES = [60.0 * minute for minute in range(5)]


def run(games: list[int], score: list[float], wall: list[float] = MINUTES, seed: int = 1) -> PeerRun:
    steps = [1000 * index for index in range(len(wall))]
    return PeerRun("train", seed, 2, 20.0, wall, [2 * time for time in wall], steps, games, score)


def test_the_return_is_that_of_the_last_hundred_games_of_a_fast_program() -> None:
    fast = run([0, 100, 200, 300, 400], [0.0, 100.0, 300.0, 600.0, 1000.0])
    assert [fast.mean_return(index) for index in range(5)] == [None, 1.0, 2.0, 3.0, 4.0]


def test_the_return_is_that_of_the_last_two_minutes_of_a_slow_one() -> None:
    slow = run([0, 10, 20, 30, 40], [0.0, 10.0, 30.0, 60.0, 100.0])
    assert [slow.mean_return(index) for index in range(5)] == [None, 1.0, 1.5, 2.5, 3.5]
    assert run([0] * 5, [0.0] * 5).final is None


def test_a_goal_and_a_rate_are_by_the_clock_that_is_asked_for() -> None:
    slow = run([0, 10, 20, 30, 40], [0.0, 10.0, 30.0, 60.0, 100.0])
    assert (slow.reached(slow.wall, 2.5), slow.reached(slow.cpu, 2.5), slow.reached(slow.cpu, 9.0)) == (180, 360, None)
    assert (slow.at(slow.wall, 180), slow.at(slow.cpu, 180), slow.at(slow.wall, 1000)) == (2.5, 1.5, None)
    assert slow.rate(slow.wall) == pytest.approx(1000 / 60)  # the first minute warms up
    assert slow.rate(slow.cpu) == pytest.approx(1000 / 120)
    assert run([0, 1], [0.0, 1.0], [0.0, 10.0]).rate([0.0, 10.0]) == pytest.approx(100)  # too short to be warm


def test_a_run_takes_the_place_of_an_earlier_one_in_the_file(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "new" / "peers.json")
    for seed, last in ((2, 4.0), (1, 3.0), (2, 5.0)):
        runs.add(run([0, 1], [0.0, last], [0.0, 60.0], seed))
    assert [(one.seed, one.final) for one in Runs(tmp_path / "new" / "peers.json").of("train")] == [(1, 3.0), (2, 5.0)]


def test_the_table_has_a_line_for_each_peer_that_ran_and_a_number_for_each_seed(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "peers.json")
    runs.add(run([0, 100, 200, 300, 400], [0.0, 100.0, 300.0, 1300.0, 3300.0]))
    runs.add(run([0] * 5, [0.0] * 5, seed=2))
    head, _, line = table(runs)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    assert dict(zip(titles, cells, strict=True)) == {
        "program": "`make train`",
        "steps/s": "17 17",
        "steps per CPU s": "8 8",
        "s to start": "20 20",
        "3 min": "10.0 -",
        "6 min": "- -",
        "10 min": "- -",
        "15 min": "- -",
        "CPU min to 10": "6.0 >8",
    }


@pytest.mark.seconds
def test_what_was_measured_is_written_beside_it_and_published_where_it_is_asked_for(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "measured" / DATA)
    runs.add(run([0, 100, 200, 300, 400], [0.0, 100.0, 300.0, 1300.0, 3300.0]))
    write(runs, tmp_path / "measured")
    assert (tmp_path / "measured" / "table.md").read_text().splitlines() == table(runs)
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table: python -m benchmarks.peers publish -->\n<!-- end of table -->\nafter\n")
    publish(runs, tmp_path)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert all(line in lines for line in table(runs))
    assert Runs(tmp_path / "data" / DATA).all == runs.all
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_our_own_words_are_understood() -> None:
    for peer in PEERS:
        if not peer.requirements:
            load_train([word.format(folder="f", seed=1, cores=2, programs="p") for word in peer.words[2:]])


@pytest.mark.seconds
def test_steps_and_whole_games_of_a_real_game_are_counted_below_its_wrappers(tmp_path: Path) -> None:
    env = recorded("BreakoutNoFrameskip-v4", str(tmp_path), gymnasium, ale_py)
    counted, frames, scores = GamesOf(tmp_path), 0, []
    for _ in range(2):
        env.reset(seed=1)
        env.action_space.seed(1)
        scores.append(0.0)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            frames, over = frames + 1, terminated or truncated
            scores[-1] += float(reward)
    env.close()
    assert scores[0] > 0
    assert counted.now() == counted.now() == Count(frames // 4, 2, sum(scores))


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    counted, file = GamesOf(tmp_path), tmp_path / "games_1.jsonl"
    assert counted.now() == Count(0, 0, 0.0)
    file.write_text('{"steps": 5, "score": 2.0}\n{"steps": 7, "sc')
    assert counted.now() == Count(5, 1, 2.0)
    with file.open("a") as more:
        more.write('ore": null}\n')
    (tmp_path / "games_2.jsonl").write_text('{"steps": 1, "score": 0.0}\n')
    assert counted.now() == Count(13, 2, 2.0)


def test_games_of_a_process_are_written_one_by_one(tmp_path: Path) -> None:
    games = Games(str(tmp_path / "new"))
    games.step(150)
    assert GamesOf(tmp_path / "new").now() == Count(0, 0, 0.0)
    games.step(60)
    games.step(5)
    games.over(3.0)
    games.close()
    assert GamesOf(tmp_path / "new").now() == Count(215, 1, 3.0)


@pytest.mark.seconds
def test_our_own_log_says_the_same_as_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("experiment=tmaze", "env.corridor=3", "fleet=local", "fleet.num_actors=1", "actors.num_envs=4")
    sizes = ("network.num_units=8", "total_steps=2000", "logging.interval_steps=200", "logging=quiet")
    assert train.main([*words, *sizes, f"run_dir={folder}"]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counted = RowsOf(folder).now()
    assert (counted.steps, counted.games) == (rows[-1]["agent_steps"], rows[-1]["episodes"])
    assert counted.games > 100
    assert counted.score / counted.games == pytest.approx(sum_of_means(rows))


def sum_of_means(rows: list[dict[str, float]]) -> float:
    total, before = 0.0, 0.0
    for row in rows:
        if new := row["episodes"] - before:
            total, before = total + row["episode_return_mean"] * new, row["episodes"]
    return total / before


DETACHES = """
import subprocess, sys, time
child = "while True: pass"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(3600)
"""


def test_all_processes_of_a_program_are_seen_and_ended_and_no_others() -> None:
    first, other = Processes("a-mark-of-this-test"), Processes("another-mark")
    with subprocess.Popen(
        [sys.executable, "-c", DETACHES], env=marked("a-mark-of-this-test"), stdout=subprocess.DEVNULL
    ) as program:
        wait_until("both of its processes", lambda: len(first.alive()) == 2)
        wait_until("the busy one's time", lambda: first.cpu_s() > 0.2)
        assert other.alive() == []
        before = first.cpu_s()
        first.end()
        assert program.poll() is not None
    assert first.alive() == []
    assert first.cpu_s() >= before  # the time of those that have ended stays


PLAYS = """
import sys, time
sys.path.insert(0, "{programs}")
from games import Games
games = Games("{folder}")
while True:
    games.step(200)
    games.over({seed})
    time.sleep(0.01)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(watch, "POLL_S", 0.05)
    monkeypatch.setattr(watch, "SAMPLE_S", 0.1)
    monkeypatch.setattr(watch, "STALL_S", 5.0)
    monkeypatch.setattr(installing, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.seconds
def test_a_program_is_watched_for_its_time_and_ended(quick: Path) -> None:
    found = measured(Peer("player", "Player", (), ("-c", PLAYS)), seed=3, seconds=0.5)
    assert (found.peer, found.seed, found.final) == ("player", 3, 3.0)
    assert found.wall[-1] >= 0.4
    assert found.steps == sorted(found.steps)
    assert found.steps[-1] == 200 * found.games[-1]
    (folder,) = (quick / "runs").iterdir()
    assert Processes(folder.name).alive() == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('there is no such game')", "no step within .* s; there is no such game"),
        (PLAYS.replace("while True:", "for _ in range(20):") + "sys.exit('enough')", "it ended after .* s; enough"),
        (
            PLAYS.replace("while True:", "for _ in range(20):") + "print('lost', flush=True); time.sleep(3600)",
            "no step from .* to .* s; lost",
        ),
    ],
)
@pytest.mark.seconds
def test_a_program_that_does_not_stay_is_said_with_its_last_words(quick: Path, code: str, said: str) -> None:
    with pytest.raises(NotMeasured, match=f"player: {said}"):
        measured(Peer("player", "Player", (), ("-c", code)), seed=3, seconds=1000)


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_and_tried_again(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = Peer("thing:wide", "A thing", ("a-thing-that-is-nowhere==1.0",), ())
    for _ in range(2):
        with pytest.raises(NotMeasured, match=r"thing:wide: cannot be installed: .*a-thing-that-is-nowhere"):
            installed(peer)
    assert not (quick / "thing" / "installed").exists()


@pytest.mark.seconds
def test_one_that_fails_does_not_keep_the_others_from_running(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "RESULTS", quick)
    both = (Peer("gone", "Gone", (), ("-c", "0")), Peer("player", "Player", (), ("-c", PLAYS)))
    found = []
    with pytest.raises(NotMeasured, match="2 could not be measured"):
        found += peers.in_turns(both, (1, 2), 0.2)
    assert [(one.peer, one.seed) for one in Runs(quick / "peers.json").all] == [("player", 1), ("player", 2)]
    assert capsys.readouterr().err.count("error: gone: no step within") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "fly: expected run, publish, train, "),
        (["run", "hours=2"], "hours: expected run"),
        (["run", "seeds=one"], "'one': expected seeds=1,2,3"),
        (["run", "minutes=long"], "'long': expected seeds=1,2,3 and minutes=10"),
        (["run", "minutes=0"], "minutes=0: expected more than none"),
        (["run", "minutes=nan"], "minutes=nan: expected more than none"),
    ],
)
def test_what_it_is_not_told_rightly_it_says(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("word", ["seconds=soon", "seconds=0", "seconds=nan"])
def test_seconds_of_benchmarks_are_a_number_of_them(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["core", word]) == 2
    assert f"error: {word}: expected seconds of a measurement" in capsys.readouterr().err


def test_a_group_that_cannot_be_measured_is_one_line_and_what_was_measured_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = (Peer("player", "Player", (), ("-c", PLAYS)), Peer("gone", "Gone", (), ("-c", "0")))
    monkeypatch.setattr(program, "RESULTS", tmp_path / "latest.json")
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    monkeypatch.setattr(peers, "PEERS", both)
    monkeypatch.setattr(installing, "FOLDER", tmp_path)
    monkeypatch.setattr(watch, "POLL_S", 0.05)
    monkeypatch.setattr(watch, "SAMPLE_S", 0.1)
    assert program.main(["peers", "seconds=0.2"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: 1 could not be measured: what is said above each"
    names = {entry["name"] for entry in json.loads((tmp_path / "latest.json").read_text())}
    assert names == {"peers/player_wall", "peers/player_cpu", "peers/player_return"}


def test_what_programs_of_others_import_of_ours_is_the_standard_library_s() -> None:
    code = f"import sys; sys.path.insert(0, {str(PROGRAMS)!r}); import games"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True)
