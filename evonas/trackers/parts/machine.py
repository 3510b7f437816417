"""How busy the machine is, in MLflow's own tab of a run: for who owns a GPU, the first question."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from evonas.trackers.base import RunInfo


@contextmanager
def watched(run: RunInfo, uri: str, run_id: str) -> Iterator[None]:
    """Log the machine's metrics to a run meanwhile, if it computes on a GPU and psutil is there."""
    on_gpu = "cuda" in run.environment.get("devices", "")
    if not on_gpu or importlib.util.find_spec("psutil") is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # It loads pynvml, which says aloud if there is no such GPU; that is of no interest here.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
