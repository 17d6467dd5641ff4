"""Where each program begins. What it imports takes seconds, in which Ctrl-C ends it as any other program: without a traceback."""

import signal
from collections.abc import Callable
from functools import partial
from importlib import import_module


def start(module: str) -> int:
    """The exit status of a module's ``main``."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # not one that is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main: Callable[[], int] = import_module(module).main
    signal.signal(signal.SIGINT, interrupt)
    return main()


train = partial(start, "r2ac.commands.train")
evaluate = partial(start, "r2ac.commands.evaluate")
demo = partial(start, "r2ac.commands.demo")
doctor = partial(start, "r2ac.commands.doctor")
copy = partial(start, "r2ac.commands.copy_task")
play = partial(start, "r2ac.commands.play")
report = partial(start, "r2ac.commands.report")
submit = partial(start, "r2ac.commands.submit")
sweep = partial(start, "r2ac.commands.sweep")
dmlab_cache = partial(start, "r2ac.commands.dmlab_cache")
