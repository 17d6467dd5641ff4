"""What was seen of the ``deepmind_lab`` module, asked of the stand-in everywhere and of the real module where it is installed.

Every question is a program of its own: the engine may end its process, and some of the answers are that it does.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dmlab_modules import both_modules
from patience import patience

STANDINS = Path(__file__).parents[1] / "standins"
WATERMAZE = "contributed/dmlab30/rooms_watermaze"
KEYS = "contributed/dmlab30/rooms_keys_doors_puzzle"
BEGIN = f"""
import os, signal, sys, threading
import numpy as np
from deepmind_lab import Lab

SMALL = {{"width": "32", "height": "32"}}
STILL = np.zeros(7, np.intc)

def lab(level={WATERMAZE!r}, observations=("RGB_INTERLEAVED",), **more):
    return Lab(level, list(observations), **{{"config": SMALL, **more}})

def error(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception as raised:
        return type(raised).__name__
    return None
"""

ANSWERS = {
    "any int is a seed, and none": (
        "one = lab(); print([one.reset(), *(one.reset(seed=seed) for seed in (0, -1, 2**31 - 1, 2**31, None))])",
        "[True, True, True, True, True, True]",
    ),
    "a seed of another type is refused": (
        "one = lab(); print([error(one.reset, seed=seed) for seed in (np.int64(1), np.int32(1), 1.0, '1')])",
        "['ValueError', 'ValueError', 'ValueError', 'ValueError']",
    ),
    "an action out of range is taken": (
        "one = lab(); one.reset(seed=1); print(type(one.step(np.full(7, 9999, np.intc), num_steps=4)).__name__)",
        "float",
    ),
    "an action of another shape or type is refused": (
        "one = lab(); one.reset(seed=1)\n"
        "print([error(one.step, action) for action in (np.zeros(6, np.intc), np.zeros(7), np.zeros(7, np.int64), [0] * 7)])",
        "['ValueError', 'ValueError', 'ValueError', 'TypeError']",
    ),
    "a step sums over its frames, and counts them": (
        "one = lab(); one.reset(seed=1); [one.step(STILL, num_steps=4) for _ in range(3)]; one.step(STILL)\n"
        "print(one.num_steps(), one.is_running())",
        "13 True",
    ),
    "an empty renderer is the default, another is refused": (
        "print(error(lab, renderer=''), error(lab, renderer='none'))",
        "None RuntimeError",
    ),
    "settings are checked": (
        "bad = ({'mixerSeed': 'x'}, {'mixerSeed': '-1'}, {'width': 'x'}, {'width': '30'}, {'height': '2'}, {'hight': '32'})\n"
        "print([error(lab, config={**SMALL, **one}) for one in bad], error(lab, config={**SMALL, 'mixerSeed': '0x10'}))",
        "['RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError'] None",
    ),
    "settings are words": (
        "print(error(lab, config={'width': 32}), error(Lab, " + repr(WATERMAZE) + ", [], [('width', '32')]))",
        "TypeError TypeError",
    ),
    "observations are a list of known words": (
        "print(error(Lab, "
        + repr(WATERMAZE)
        + ", ('RGB_INTERLEAVED',)), error(lab, observations=[7]), error(lab, observations=['SMELL']))",
        "TypeError TypeError ValueError",
    ),
    "levels are known by their whole names": (
        "names = ('contributed/dmlab30/rooms_watermase', 'rooms_watermaze', 'nowhere')\n"
        "print([error(lab, name) for name in names])",
        "['RuntimeError', 'RuntimeError', 'RuntimeError']",
    ),
    "a hold-out level wants to be allowed": (
        "name = 'contributed/dmlab30/rooms_collect_good_objects_test'\n"
        "print(error(lab, name), error(lab, name, config={**SMALL, 'allowHoldOutLevels': 'true'}))",
        "RuntimeError None",
    ),
    "a temporary folder is made": (
        "folder = os.path.join(os.environ['TMPDIR'], 'a', 'b')\n"
        "one = lab(temp_folder=folder); one.reset(seed=1); print(os.path.isdir(folder))",
        "True",
    ),
    "observations are fresh copies": (
        "one = lab(); one.reset(seed=1); first = one.observations()['RGB_INTERLEAVED']; kept = first.copy()\n"
        "second = one.observations()['RGB_INTERLEAVED']; second[:] = 0\n"
        "third = one.observations()['RGB_INTERLEAVED']\n"
        "print((first == kept).all(), (third == kept).all(), first.shape, first.dtype, first.flags.owndata)",
        "True True (32, 32, 3) uint8 True",
    ),
    "nothing is seen before a reset": ("print(error(lab().observations), lab().is_running())", "RuntimeError False"),
    "nothing is seen after the end": (
        "one = lab('contributed/dmlab30/rooms_select_nonmatching_object'); one.reset(seed=1)\n"
        "while one.is_running(): one.step(STILL, num_steps=4)\n"
        "print(error(one.observations), error(one.step, STILL), one.reset(seed=2), one.is_running())",
        "RuntimeError RuntimeError True True",
    ),
    "frames left are doubles of one number": (
        "one = lab(observations=['FRAMES_REMAINING_AT_60', 'INSTR']); one.reset(seed=1); seen = one.observations()\n"
        "left = seen['FRAMES_REMAINING_AT_60']; print(left.dtype, left.shape, float(left[0]) % 1, repr(seen['INSTR']))",
        "float64 (1,) 0.0 ''",
    ),
    "the actions are seven, and have bounds": (
        "print([(one['min'], one['max']) for one in lab().action_spec()])",
        "[(-512, 512), (-512, 512), (-1, 1), (-1, 1), (0, 1), (0, 1), (0, 1)]",
    ),
    "the spec has what is observed": (
        "spec = {one['name']: one for one in lab().observation_spec()}\n"
        "print(spec['RGB_INTERLEAVED']['shape'], spec['INSTR']['dtype'], spec['FRAMES_REMAINING_AT_60']['shape'])",
        "(32, 32, 3) <class 'str'> (1,)",
    ),
    "core levels tell the frames left too": (
        "print([error(lab, name, ['FRAMES_REMAINING_AT_60']) for name in ('lt_chasm', 'nav_maze_static_01')])",
        "[None, None]",
    ),
    "a closed lab refuses to play": (
        "one = lab(); one.reset(seed=1)\n"
        "print(one.close(), error(one.step, STILL), error(one.observations), one.is_running(), one.close())",
        "True RuntimeError RuntimeError False False",
    ),
    "an array that is not contiguous is misread": (
        "one = lab(observations=['DEBUG.POS.TRANS']); one.reset(seed=1); one.step(STILL, num_steps=60)\n"
        "def moved(action):\n"
        "    before = one.observations()['DEBUG.POS.TRANS']; one.step(action, num_steps=60)\n"
        "    return bool(abs(one.observations()['DEBUG.POS.TRANS'] - before)[:2].max() > 1)\n"
        "pairs = np.zeros((7, 2), np.intc); pairs[1, 1] = 1\n"  # fourth in memory: forward
        "print(pairs[:, 0].any(), moved(STILL), moved(pairs[:, 0]))",
        "False False True",
    ),
    "without a writer or a reader, the cache's error comes out of the call": (
        "class Half:\n"
        "    def fetch(self, key, path): raise KeyError(key)\n"
        "    def write(self, key, path): pass\n"
        "print(error(lambda: lab(" + repr(KEYS) + ", level_cache=Half()).reset(seed=1)))",
        "KeyError",
    ),
}
"""Question -> program, what it prints."""

CACHE = """
class Cache:
    def __init__(self): self.calls, self.packs = [], {}
    def fetch(self, key, path):
        self.calls.append(("fetch", key, os.path.exists(path)))
        if key in self.packs: open(path, "wb").write(self.packs[key])
        return key in self.packs
    def write(self, key, path):
        self.calls.append(("write", key, os.path.exists(path))); self.packs[key] = open(path, "rb").read()
"""

ENDS = {
    "a reset after close": "one = lab(); one.reset(seed=1); one.close(); print('before', flush=True); one.reset(seed=1)",
    "an action_spec after close": "one = lab(); one.close(); print('before', flush=True); one.action_spec()",
    "a map that is built while SIGCHLD is ignored": (
        f"signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('before', flush=True)\nlab({KEYS!r}).reset(seed=1)"
    ),
    "half a pack": (
        CACHE
        + "cache = Cache(); one = lab("
        + repr(KEYS)
        + ", level_cache=cache); one.reset(seed=1); one.reset(seed=2)\n"
        "cache.packs = {key: pack[:len(pack) // 2] for key, pack in cache.packs.items()}\n"
        "print('before', flush=True); one.reset(seed=2)"
    ),
}


def run(module: str, folder: Path, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = [str(STANDINS)] if module == "stand-in" else []
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(folder), "FAKE_LAB": '{"steps": [200, 300]}'}
        | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )


def last_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The engine has its own to say before."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip().splitlines()[-1]


@both_modules
@pytest.mark.parametrize("question", ANSWERS)
def test_the_module_answers(module: str, tmp_path: Path, question: str):
    program, answer = ANSWERS[question]
    assert last_line(run(module, tmp_path, program)) == answer


@both_modules
@pytest.mark.parametrize("what", ENDS)
def test_the_process_is_ended_by(module: str, tmp_path: Path, what: str):
    finished = run(module, tmp_path, ENDS[what] + "\nprint('after', flush=True)")
    said = finished.stdout.split()
    assert "before" in said
    assert "after" not in said
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr


@both_modules
def test_without_zip_building_a_map_fails_with_words_that_do_not_say_so(module: str, tmp_path: Path):
    program = f"try: lab({KEYS!r}).reset(seed=1)\nexcept RuntimeError as error: print('zip' in str(error).replace('unzip', ''))"
    (tmp_path / "bin").mkdir()
    for name in ("sh", "bash", "env", "rm", "mkdir", "cp", "mv", "dirname", "basename", "cat"):
        for folder in ("/bin", "/usr/bin"):
            if (Path(folder) / name).exists():
                (tmp_path / "bin" / name).symlink_to(Path(folder) / name)
                break
    assert last_line(run(module, tmp_path, program, PATH=str(tmp_path / "bin"))) == "False"


@pytest.mark.seconds
@both_modules
def test_a_reset_after_a_fork_hangs(module: str, tmp_path: Path):
    program = """
one = lab(); one.reset(seed=1)
child = os.fork()
if child == 0:
    one.reset(seed=2)
    os._exit(0)
threading.Event().wait(3)
print(os.waitpid(child, os.WNOHANG)[0])
os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
"""
    assert last_line(run(module, tmp_path, program)) == "0"


@both_modules
def test_the_same_seed_repeats_an_episode_but_not_the_first_of_an_instance_and_not_on_every_level(
    module: str, tmp_path: Path
):
    program = """
def pictures(one, seed, steps=140):
    one.reset(seed=seed)
    seen = [one.observations()["RGB_INTERLEAVED"]]
    for _ in range(steps):
        one.step(STILL, num_steps=4)
        if not one.is_running(): break
        seen.append(one.observations()["RGB_INTERLEAVED"])
    return np.stack(seen)

def repeats(level):
    one = lab(level); one.reset(seed=0)
    first, again = pictures(one, 5), pictures(one, 5)
    return first.shape == again.shape and bool((first == again).all())

print(repeats("contributed/dmlab30/rooms_watermaze"), repeats("seekavoid_arena_01"))
"""
    assert last_line(run(module, tmp_path, program)) == "True False"


def test_the_stand_in_repeats_an_episode_of_lasertag_up_to_the_step_at_which_the_engine_was_seen_to_diverge(
    tmp_path: Path,
):
    program = """
def pictures(one):
    one.reset(seed=5)
    return np.stack([(one.step(STILL, num_steps=4), one.observations()["RGB_INTERLEAVED"])[1] for _ in range(130)])

one = lab("contributed/dmlab30/lasertag_one_opponent_small"); one.reset(seed=0)
differs = (pictures(one) != pictures(one)).reshape(130, -1).any(axis=1)
print(1 + np.argmax(differs))
"""
    assert last_line(run("stand-in", tmp_path, program)) == "121"


@both_modules
@pytest.mark.parametrize(
    ("level", "asked"),
    [
        ("rooms_keys_doors_puzzle", True),
        ("language_select_described_object", True),
        ("rooms_watermaze", False),
        ("rooms_select_nonmatching_object", False),
    ],
)
def test_only_levels_that_compile_maps_ask_the_cache(module: str, tmp_path: Path, level: str, asked: bool):
    program = CACHE + (
        f"cache = Cache(); one = lab('contributed/dmlab30/{level}', level_cache=cache)\n"
        "one.reset(seed=1); one.reset(seed=2); print(bool(cache.calls))"
    )
    assert last_line(run(module, tmp_path, program)) == str(asked)


@both_modules
def test_a_map_that_was_kept_is_asked_for_by_the_same_key_and_not_built_again(module: str, tmp_path: Path):
    program = CACHE + (
        f"cache = Cache(); one = lab({KEYS!r}, level_cache=cache); one.reset(seed=0); one.reset(seed=1)\n"
        "before = len(cache.calls); one.reset(seed=1)\n"
        "print([call[0] for call in cache.calls[before:]], cache.calls[-1][1] in cache.packs, len(cache.calls[-1][1]) > 32)"
    )
    assert last_line(run(module, tmp_path, program)) == "['fetch'] True True"


def test_the_stand_in_asks_its_cache_from_the_constructor_a_reset_and_a_step_over_the_map_before(tmp_path: Path):
    """All three were seen of the engine; on which level each comes is not known, so only the stand-in can be asked."""
    program = CACHE + (
        "def calls(level):\n"
        "    cache = Cache(); counts = []; one = lab('contributed/dmlab30/' + level, level_cache=cache)\n"
        "    counts.append(len(cache.calls)); one.reset(seed=1); counts.append(len(cache.calls))\n"
        "    for _ in range(5): one.step(STILL, num_steps=4)\n"
        "    return counts + [len(cache.calls)], [call[2] for call in cache.calls if call[0] == 'fetch']\n"
        "print([calls(level) for level in ('language_select_described_object', 'skymaze_irreversible_path_varied')])"
    )
    assert last_line(run("stand-in", tmp_path, program)) == "[([2, 2, 2], [False]), ([0, 2, 4], [False, True])]"
