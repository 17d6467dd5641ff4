"""Contributions to weights: the learner, its optimizer, its clients, and the schedules by which unrolls are asked for."""
