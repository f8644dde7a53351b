"""What a person sees of a job: progress, metrics."""

from mpitrain.observe.metrics import MetricsFile, read_metrics
from mpitrain.observe.progress import Progress
from mpitrain.observe.report import StepReport

__all__ = ["MetricsFile", "Progress", "StepReport", "read_metrics"]
