"""`halut search`: by budgets, from scores of single sites, or by trials, chosen by a sampler."""

from __future__ import annotations

from collections.abc import Sequence

USAGE = """\
usage: halut search budget=RESOURCE:LIMIT[,LIMIT] [KEY=VALUE ...] [OPTIONS]
       halut search sampler=NAME[,NAME] [KEY=A,B ...] [OPTIONS]
       halut search experiment=NAME

Which site becomes what: the best plans within budgets, found by an exact solver from what every
site loses alone; or the best of trials of any options, networks and plans, chosen by Optuna.

`halut search budget= --help` and `halut search sampler= --help` tell more of each.
"""


def main(arguments: Sequence[str]) -> int:
    """The exit code of the search that the words ask for."""
    keys = {word.removeprefix("search.").partition("=")[0] for word in arguments if "=" in word}
    if not keys and (not arguments or {"-h", "--help"} & set(arguments)):
        print(USAGE, end="")
        return 0 if arguments else 2
    if keys & {"sampler", "experiment"}:
        from halut.search.trials.command import main as by_trials

        return by_trials(arguments)
    from halut.search.command import main as by_budget

    return by_budget(arguments)
