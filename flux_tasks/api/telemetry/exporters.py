"""Send spans and metrics where the environment says: by OTLP over HTTP, and to Prometheus at a port.

The variables are OpenTelemetry's own (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``
…), and ``FLUX_METRICS_PORT``. Nothing is set up globally: a program that has an SDK of its own keeps it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import Any

from flux_tasks import background
from flux_tasks.api.telemetry import probe
from flux_tasks.errors import Problem, RecipeError, cut, reason_of, shown

__all__ = ["PORT", "exporting"]

PORT = "FLUX_METRICS_PORT"
PATIENCE = 3.0
"""Seconds at the end after which it is given up to send the rest."""

_HOST = "OTEL_EXPORTER_PROMETHEUS_HOST"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_EXTRA = "pip install 'flux-pipelines[telemetry]'"
_log = logging.getLogger("flux_tasks.telemetry")


@contextmanager
def exporting(port: int | None = None, *, has_port: bool = True) -> Iterator[str]:
    """Send what is measured in the block; nothing is measured if nobody wants it.

    What goes wrong is a warning, unless it is about a port that was given here.

    Args:
        port: where Prometheus finds the metrics; 0 for any free port. That of ``FLUX_METRICS_PORT`` if None.
        has_port: that variable counts; it does not for one of several processes of a run.

    Yields:
        The address for Prometheus; empty without one.

    Raises:
        RecipeError: the port cannot be used, or is no number; or the packages are missing.
    """
    probe.look()
    chosen = port if port is not None or not has_port else _port_of_environment()
    wanted = [signal for signal in ("traces", "metrics") if _is_wanted(signal)]
    if probe.probe is not None or (chosen is None and not wanted) or _flag("OTEL_SDK_DISABLED"):
        if probe.probe is not None and port is not None:
            what = "has no effect, because this program has set up OpenTelemetry: add a reader for Prometheus there"
            raise RecipeError([Problem("--metrics-port", what)])
        yield ""
        return
    with ExitStack() as until_sent:
        address = ""
        readers: list[Any] = []
        try:
            if chosen is not None:
                reader, address = _prometheus(chosen, until_sent)
                readers.append(reader)
        except (ImportError, OSError) as error:
            what = f"cannot be used ({reason_of(error)}): name another port, or 0 for any free one"
            if isinstance(error, ImportError):
                what = _lack(error)
            if port is not None:
                raise RecipeError([Problem("--metrics-port", what)]) from None
            _log.warning("%s=%s %s", PORT, chosen, what)
        for signals in (wanted, []):  # the page for Prometheus is there even if nothing can be sent
            if not signals and not readers:
                break
            try:
                _set_up(signals, readers, until_sent)
            except ImportError as error:
                if port is not None:
                    raise RecipeError([Problem("--metrics-port", _lack(error))]) from None
                _log.warning("%s %s", _ENDPOINT, _lack(error))
            except Exception as error:
                names = ", ".join(name for name in sorted(os.environ) if name.startswith("OTEL_"))
                what = cut(" ".join(str(error).split()), 160)
                _log.warning("nothing is sent, because one of %s cannot be used: %s", names, what)
            else:
                break
        yield address


def _lack(error: ImportError) -> str:
    return f"needs {error.name}, not installed here: {_EXTRA}"


def _port_of_environment() -> int | None:
    text = os.environ.get(PORT, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) > 65_535:
        raise RecipeError([Problem(PORT, f"{shown(text)} is no port: write a number from 0 to 65535")])
    return int(text)


def _is_wanted(signal: str) -> bool:
    """Check whether the environment says where one kind goes: ``traces`` or ``metrics``."""
    exporter = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip() or "otlp"
    places = (_ENDPOINT, f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return exporter == "otlp" and any(os.environ.get(name, "").strip() for name in places)


def _flag(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() == "true"


def _set_up(wanted: list[str], readers: list[Any], until_sent: ExitStack) -> None:
    """Set up an SDK that ``until_sent`` ends, which sends what is left.

    Args:
        readers: they get the metrics, too.

    Raises:
        ImportError: a package is missing.
        Exception: what a variable says cannot be used; each has an exception of its own.
    """
    from importlib.metadata import PackageNotFoundError, version

    from opentelemetry import trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        own = version("flux-pipelines")
    except PackageNotFoundError:  # a checkout that was never installed
        own = "0"
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "flux-pipelines", "service.version": own}))
    spans: trace.TracerProvider = trace.NoOpTracerProvider()
    providers: list[Any] = []
    with ExitStack() as begun:  # ended again if what follows cannot be set up: each has a thread
        if "traces" in wanted:
            spans = tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            exporter = import_module(f"{_package('TRACES')}.trace_exporter").OTLPSpanExporter()
            tracers.add_span_processor(BatchSpanProcessor(exporter))
            begun.callback(tracers.shutdown)
            providers.append(tracers)
        if "metrics" in wanted:
            exporter = import_module(f"{_package('METRICS')}.metric_exporter").OTLPMetricExporter()
            periodic = PeriodicExportingMetricReader(exporter)
            begun.callback(periodic.shutdown)
            readers = [*readers, periodic]
        meters = MeterProvider(readers, resource, shutdown_on_exit=False)
        begun.pop_all()
    complaints = _Complaints()
    until_sent.callback(_send_rest, [*providers, meters], complaints)
    until_sent.callback(probe.switch, None)
    probe.switch(probe.Probe(spans.get_tracer(probe.SCOPE, own), meters.get_meter(probe.SCOPE, own)))


class _Complaints(logging.Handler):
    """Keeps the last complaint of OpenTelemetry instead of many lines about each attempt to send."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self.has_ended = False
        self._logger = logging.getLogger("opentelemetry")
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()

    def end(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        self.has_ended = True


def _send_rest(providers: list[Any], complaints: _Complaints) -> None:
    """End the SDK, which sends what is left; give that up after ``PATIENCE``, or at a signal."""
    over = threading.Event()

    def end(provider: Any) -> None:
        with suppress(Exception):  # its reader has complained
            provider.shutdown()

    def end_all() -> None:
        threads = [threading.Thread(target=end, args=(provider,), daemon=True) for provider in providers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        complaints.end()  # only now: what was given up still complains
        over.set()

    with background.cut_short(over.set):
        threading.Thread(target=end_all, daemon=True).start()
        over.wait(PATIENCE)
    if complaints.last or not complaints.has_ended:
        why = cut(" ".join(complaints.last.split())) or f"no answer within {PATIENCE:g} s"
        _log.warning("%s: not all that was measured could be sent: %s", _ENDPOINT, why)


def _package(signal: str) -> str:
    """Return the package that sends one kind by the protocol that the environment names."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((text for name in names if (text := os.environ.get(name, "").strip())), "http/protobuf")
    return f"opentelemetry.exporter.otlp.proto.{'grpc' if protocol == 'grpc' else 'http'}"


def _prometheus(port: int, until_sent: ExitStack) -> tuple[Any, str]:
    """Serve a page for Prometheus; return what gathers the metrics, and the address of the page."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    host = os.environ.get(_HOST, "").strip() or "127.0.0.1"
    server, thread = start_http_server(port, addr=host, registry=registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    until_sent.callback(end)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    return reader, f"http://{host}:{server.server_port}/metrics"
