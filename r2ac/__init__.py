"""What surrounds a run: programs, what they keep and show, where they run, and the loop that puts fleet and learner together."""
