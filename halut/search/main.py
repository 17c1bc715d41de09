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


def way_of(arguments: Sequence[str]) -> str:
    """Which search the words ask for: trials, budget, or help where they ask for none.

    >>> way_of(["sampler=tpe", "halut=tree,pq"]), way_of(["runs/MINE"]), way_of(["--help"])
    ('trials', 'budget', 'help')
    """
    keys = {word.removeprefix("search.").partition("=")[0] for word in arguments if "=" in word}
    if not keys and (not arguments or {"-h", "--help"} & set(arguments)):
        return "help"
    return "trials" if keys & {"sampler", "experiment"} else "budget"
