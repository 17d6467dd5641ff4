"""Where log rows go: files, TensorBoard, Weights & Biases, Prometheus, the terminal. All write the same row, one call per interval."""

from r2ac.monitoring.sinks.all_sinks import Sinks, open_sinks

__all__ = ["Sinks", "open_sinks"]
