"""What gives way first with many actors: ``python -m benchmarks.simulation [run] [costs] [publish] [NAME=VALUE ...]``.

The driver, its loop and its learner are those of a run, and so are aggregators, messages and updates. Actors are light: they play nothing,
and send a gradient of the right size when an unroll would be over. Where each sends for itself (``fleet.aggregate=never``) a few processes
act for all of them, and every message is one of Ray's; where they are added up, those of a node live in its aggregator's process.
``costs`` times additions and updates of a network of a real size, for what is said of more actors on paper.

actors=100,300,1000   sizes of fleets
rate=3                contributions that each actor makes per second, where nothing holds it back
node=64               actors of a node
seconds=40            of each, after ``WARM_UP_S``
units=128             of the network, whose size is that of the messages
"""
