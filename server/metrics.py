"""What Prometheus may ask: requests, bytes, polls, reports, and which releases the fleet runs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from slipstream.server.catalog import Catalog

CONTENT_TYPE = CONTENT_TYPE_LATEST
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class _Statements(Collector):
    """Asks for a count that the database keeps itself."""

    count: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        words = "Statements sent to the database, for whatever reason"
        yield CounterMetricFamily("slipstream_database_statements", words, value=self.count())


class Metrics:
    """The counters of one application, in a registry of their own.

    `statements`: how many the database has run so far.
    """

    def __init__(self, statements: Callable[[], int] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Statements(statements))
        # Their children, which prometheus_client would look for behind a lock at every request.
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._requests = Counter(
            "slipstream_requests",
            "HTTP requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._bytes = Counter(
            "slipstream_served_bytes",
            "Body bytes of repository files handed to the kernel",
            ("folder",),
            registry=self.registry,
        )
        self._polls = Counter(
            "slipstream_polls", "Polls answered", ("action",), registry=self.registry
        )
        self._reports = Counter(
            "slipstream_reports", "Reports kept", ("kind",), registry=self.registry
        )
        self._duplicates = Counter(
            "slipstream_duplicate_reports", "Reports sent again", registry=self.registry
        )
        self._devices = Gauge(
            "slipstream_devices", "Devices by what they run", ("release",), registry=self.registry
        )
        self._expiry = Gauge(
            "slipstream_timestamp_expiry_seconds",
            "When timestamp.json expires, in seconds since 1970: devices refuse it afterwards",
            registry=self.registry,
        )

        self._failures = Gauge(
            "slipstream_task_failures",
            "Steps of background tasks that failed since the start",
            ("task",),
            registry=self.registry,
        )

    def note_failures(self, task: str, failures: int) -> None:
        self._failures.labels(task).set(failures)

    def count_request(self, method: str, route: str, status: int) -> None:
        # Anybody may invent a method; not everybody may invent a time series.
        method = method if method in _METHODS else "other"
        key = (method, route, status)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self._requests.labels(method, route, str(status))
        counter.inc()

    def count_bytes(self, folder: str, size: int) -> None:
        self._bytes.labels(folder).inc(size)

    def count_poll(self, action: str) -> None:
        self._polls.labels(action).inc()

    def count_report(self, kind: str, *, duplicate: bool) -> None:
        if duplicate:
            self._duplicates.inc()
        else:
            self._reports.labels(kind).inc()

    def dump(self, devices: Mapping[str | None, int], catalog: Catalog | None) -> bytes:
        """The exposition text.

        A release that the repository does not have is counted as "other": a device names what
        it likes.
        """
        known = {one.release for one in catalog.releases} if catalog is not None else set()
        counts: dict[str, int] = {}
        for release, count in devices.items():
            label = "unknown" if release is None else release if release in known else "other"
            counts[label] = counts.get(label, 0) + count
        self._devices.clear()
        for label, count in counts.items():
            self._devices.labels(label).set(count)
        if catalog is not None and (expiry := parse_expiry(catalog.expires)) is not None:
            self._expiry.set(expiry.timestamp())
        return generate_latest(self.registry)


def parse_expiry(text: str) -> datetime | None:
    """A TUF expiry date, or None for text that is none."""
    try:
        return datetime.strptime(text + "+0000", "%Y-%m-%dT%H:%M:%SZ%z")
    except ValueError:
        return None
