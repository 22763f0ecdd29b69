"""See what a training run does on the sphere: readings, findings and forecasts, from the optimiser's steps alone."""

from onsphere.monitor.callbacks import HuggingFaceMonitor, LightningMonitor
from onsphere.monitor.findings import Finding
from onsphere.monitor.forecast import Forecast, forecast_jump
from onsphere.monitor.monitor import Monitor
from onsphere.monitor.sinks import MLflowSink, Sink, TensorBoardSink, TrackioSink, WandbSink

__all__ = [
    "Finding",
    "Forecast",
    "HuggingFaceMonitor",
    "LightningMonitor",
    "MLflowSink",
    "Monitor",
    "Sink",
    "TensorBoardSink",
    "TrackioSink",
    "WandbSink",
    "forecast_jump",
]
