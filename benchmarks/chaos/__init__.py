"""Faults, counted: a run on several nodes of one machine, a thousand faults, and an audit of what became of every contribution.

    audited.py     the agent that is trained: R2AC whose actors and learner write down what they ship and add
    ledger.py      what they write it into
    audit.py       whether it adds up
    nodes.py       a Ray cluster whose nodes have a network between them, where this machine lets us make one
    scene.py       the run: its cluster, its program, its disk, its clock
    faults.py      what is done to it
    campaign.py    when, and what came of it
    page.py        the table of docs/results

Nothing here is part of the program; its own code is what the faults meet.
"""
