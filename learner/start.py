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


train = partial(start, "learner.train_main")
evaluate = partial(start, "learner.evaluate_main")
demo = partial(start, "learner.demo_main")
doctor = partial(start, "learner.doctor_main")
copy = partial(start, "learner.copy_main")
play = partial(start, "learner.play_main")
report = partial(start, "learner.report_main")
submit = partial(start, "learner.submit_main")
dmlab_cache = partial(start, "learner.dmlab_cache_main")
