"""OpenTelemetry traces, from a picture at its producer to the results of the window that it completes. They are propagated
in the Kafka header `traceparent` (W3C trace context).

Off unless the environment names an exporter, as usual in OpenTelemetry: OTEL_EXPORTER_OTLP_ENDPOINT or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (http/protobuf). When off, OpenTelemetry is not imported and no span is created.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from codecflow import logs

HEADER = "traceparent"

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORT_S = 3.0
"""Time-out of an export, and of the last one at the end of a service, unless the environment sets it."""
_NOTICE_EVERY_S = 60.0

_logger = logging.getLogger("codecflow.tracing")
_current: Tracing | None = None


def current() -> Tracing | None:
    """The tracing of this process; None if it is off."""
    return _current


@contextmanager
def traced(service: str) -> Iterator[None]:
    """A context in which this process creates spans, if the environment enables tracing. `service`: its name, unless
    OTEL_SERVICE_NAME overrides it. Missing requirements are logged: a service works without traces."""
    global _current  # noqa: PLW0603  # one service per process, as in OpenTelemetry
    _current = _configured(service)
    try:
        yield
    finally:
        tracing, _current = _current, None
        if tracing is not None:
            tracing.close()


class Span:
    """A timed operation. `traceparent`: makes another span its child, in any process; None if it is not sampled."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        context = self._span.get_span_context()
        if not context.trace_flags.sampled:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def end(self, at_s: float | None = None, error: str = "") -> None:
        """Ends the span: now, or at `at_s` seconds since 1970."""
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_ns(at_s))


class Tracing:
    """Creates spans of one service and exports them in a separate thread that never blocks the service: spans that a
    collector does not accept in time are dropped."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("codecflow")

    def begin(
        self,
        name: str,
        parent: str | None = None,
        at_s: float | None = None,
        attributes: Mapping[str, str | int | float] | None = None,
    ) -> Span:
        """A span that starts now, or at `at_s` seconds since 1970. `parent`: a traceparent; None starts a trace."""
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = Context() if parent is None else TraceContextTextMapPropagator().extract({HEADER: parent}, Context())
        return Span(self._tracer.start_span(name, context, attributes=attributes, start_time=_ns(at_s)))

    def close(self) -> None:
        """Exports the remaining spans, with a short time-out."""
        self._provider.force_flush(int(_EXPORT_S * 1000))


def _ns(at_s: float | None) -> int | None:
    return None if at_s is None else int(at_s * 1e9)


def _configured(service: str) -> Tracing | None:
    environment = os.environ
    if not any(environment.get(name) for name in _ENDPOINTS):
        return None
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        logs.notice(
            f"no traces: OTLP by {protocol} is not supported; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "warning"
        )
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logs.notice("no traces: install the extra: pip install 'codecflow[otel]'", "warning")
        return None
    own = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": service}
    timed = any(environment.get(name) for name in ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"))
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=None if timed else _EXPORT_S)))
    _quiet()
    return Tracing(provider)


def _quiet() -> None:
    """Limits warnings about an unavailable collector to one line per minute."""
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Throttled) for handler in logger.handlers):
        logger.addHandler(_Throttled())
    logger.propagate = False


class _Throttled(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _NOTICE_EVERY_S
            _logger.warning("traces are not exported: %s", record.getMessage())
