"""Telemetry: what happens in the node as events on topics, as metrics, and as spans for OpenTelemetry."""
