"""What a person sees of a job: progress, metrics, traces, plots."""

from mpitrain.observe.metrics import MetricsFile, read_metrics
from mpitrain.observe.progress import Progress
from mpitrain.observe.report import StepReport
from mpitrain.observe.spent import Spent
from mpitrain.observe.trace import StepTrace, TraceFile, Tracing, read_trace

__all__ = [
    "MetricsFile",
    "Progress",
    "Spent",
    "StepReport",
    "StepTrace",
    "TraceFile",
    "Tracing",
    "read_metrics",
    "read_trace",
]
