"""What surrounds a run: the programs, what they keep, what they show, where they run, and the loop that puts fleet, learner and sinks together."""
