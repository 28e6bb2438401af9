"""What goes on, as spans and metrics of OpenTelemetry: ``probe`` measures, ``exporters`` send."""
