"""The text of a job as rtrl-submit would send it."""

from r2ac.commands.submit import DRY_RUN, main

TRAIN = ("experiment=tmaze", "total_steps=1000")


def rendered(capsys, *words: str, train: tuple[str, ...] = TRAIN) -> str:
    assert main([*words, *train, DRY_RUN]) == 0
    return capsys.readouterr().out
