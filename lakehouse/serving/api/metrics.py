"""Metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter("serving_requests_total", "Requests, by path and status.", ["path", "status"])
LATENCY = Histogram("serving_request_seconds", "Time to answer a request, by path.", ["path"], buckets=SECONDS)
PREDICTIONS = Counter("serving_predictions_total", "Rows answered, by model version and alias.", ["version", "alias"])
BATCH_ROWS = Histogram(
    "serving_batch_rows", "Rows predicted by one call of the model.", buckets=(1, 4, 16, 64, 256, 1024)
)
MODEL_VERSION = Gauge("serving_model_version", "The version in service; 0 if there is none.", ["alias"])
SWAPS = Counter("serving_model_swaps_total", "Changes of the version in service.", ["alias"])
REFRESH_FAILURES = Counter(
    "serving_model_refresh_failures_total",
    "Checks of the registry that failed or found a version that cannot be loaded.",
    ["alias"],
)
JOURNAL_ROWS = Counter("serving_journal_rows_total", "Rows written to the table of requests.")
JOURNAL_DROPPED = Counter(
    "serving_journal_dropped_rows_total",
    "Rows missing from the table of requests: the queue was full or the server stopped.",
)
JOURNAL_FAILURES = Counter(
    "serving_journal_failures_total", "Failed writes to the table of requests; they are repeated."
)
