"""Traces calls with OpenTelemetry, if the extra `otel` is installed and the flag --trace is set."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Tracer:
    """A tracer that records nothing."""

    @contextlib.contextmanager
    def call(self, method: str, metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[None]:
        """A context for one call. A subclass records it.

        metadata: the call's headers. facts: about the call; more are added while it runs.
        """
        yield


class OpenTelemetry(Tracer):
    """Records a span for each call, as a child of the caller's `traceparent`, with the child spans queue and device.

    provider: an opentelemetry TracerProvider.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("bart_server")
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def call(self, method: str, metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[None]:
        from opentelemetry.trace import SpanKind, set_span_in_context

        service, _, name = method.strip("/").partition("/")
        parent = self._propagator.extract({key: str(value) for key, value in metadata.items()})
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self._tracer.start_as_current_span(
            method.strip("/"), parent, SpanKind.SERVER, attributes, record_exception=False
        ) as span:
            yield
            span.set_attributes({f"bart.{key}": value for key, value in facts.items() if key not in ("method", "peer")})
            if "compute_seconds" in facts:
                ended = time.time_ns()
                started = ended - round(facts["compute_seconds"] * 1e9)
                arrived = started - round(facts["queue_seconds"] * 1e9)
                parent = set_span_in_context(span)
                self._tracer.start_span("queue", parent, start_time=arrived).end(started)
                self._tracer.start_span("device", parent, start_time=started).end(ended)


def otlp() -> Tracer:
    """A tracer that sends spans by OTLP over gRPC to the address in OTEL_EXPORTER_OTLP_ENDPOINT."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "bart-server"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetry(provider)
