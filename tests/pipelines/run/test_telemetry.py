"""Spans and metrics: received by a real server over OTLP, scraped from a real page, and nothing of it when off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Here
from fake_bfl import FakeBfl
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted import Answer, ScriptedServer
from servers import unused_port
from waiting import wait_until

from flux_tasks.api.telemetry import exporters, probe
from flux_tasks.api.telemetry.exporters import exporting
from flux_tasks.errors import RecipeError
from pipelines import Recipe


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(key="right-key") as server:
        yield server


@pytest.fixture
def collector(here_cli: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A collector that takes what OTLP sends; the environment names it."""
    with ScriptedServer() as server:
        server.on("POST /v1/traces", Answer(200))
        server.on("POST /v1/metrics", Answer(200))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server


def perform(here_cli: Here, bfl: FakeBfl, folder: Path, *arguments: str) -> Any:
    given = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", *arguments)
    return here_cli(*given, key="right-key")


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes of OTLP as a mapping."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def spans(collector: ScriptedServer) -> list[Any]:
    found = []
    for request in collector.seen("POST /v1/traces"):
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def metrics(collector: ScriptedServer) -> dict[str, list[tuple[dict[str, Any], float]]]:
    """The last value of each metric: labels, and the number or the count."""
    request = ExportMetricsServiceRequest.FromString(collector.seen("POST /v1/metrics")[-1].body)
    found: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for resource in request.resource_metrics:
        for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
            points = getattr(metric, metric.WhichOneof("data")).data_points
            found[metric.name] = [
                (plain(p.attributes), p.count if hasattr(p, "count") else p.as_double or p.as_int) for p in points
            ]
    return found


def test_a_run_is_a_trace_of_items_steps_jobs_and_requests(
    here_cli: Here, bfl: FakeBfl, folder: Path, collector: ScriptedServer
) -> None:
    assert perform(here_cli, bfl, folder).returncode == 0
    found = spans(collector)
    by_id = {span.span_id: span for span in found}

    def line(span: Any) -> list[str]:
        above = by_id.get(span.parent_span_id)
        return [*(line(above) if above is not None else []), span.name]

    assert len({span.trace_id for span in found}) == 1
    lines = {" > ".join(line(span)) for span in found}
    job = "run clean > item > step deblur > generate_content deblur-v1"
    assert {f"{job} > POST /v1/flux-tools/deblur-v1", f"{job} > GET /v1/get_result", f"{job} > GET"} <= lines
    assert "run clean > item > step erase > generate_content erase-v1 > POST /v1/flux-tools/erase-v1" in lines
    [job_span] = [span for span in found if line(span) == job.split(" > ")][:1]
    about = plain(job_span.attributes)
    assert about["gen_ai.response.id"] in bfl.known
    assert {name: about[name] for name in about if name != "gen_ai.response.id"} == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "black_forest_labs",
        "gen_ai.output.type": "image",
        "gen_ai.request.model": "deblur-v1",
        "server.address": "127.0.0.1",
        "flux.outcome": "done",
    }
    [post] = [span for span in found if span.parent_span_id == job_span.span_id and span.name.startswith("POST")]
    assert plain(post.attributes) == {
        "http.request.method": "POST",
        "url.full": f"{bfl.url}/v1/flux-tools/deblur-v1",
        "url.template": "/v1/flux-tools/deblur-v1",
        "server.address": "127.0.0.1",
        "server.port": bfl.port,
        "http.response.status_code": 200,
        "flux.phase": "submit",
    }
    [run] = [span for span in found if span.name == "run clean"]
    assert {"flux.run": "clean", "flux.items": 2, "flux.outcome": "fine", "flux.credits": 12.0}.items() <= (
        plain(run.attributes).items()
    )
    sent = b"".join(request.body for request in collector.requests)
    assert b"right-key" not in sent
    assert b"?id=" not in sent


def test_what_fails_is_an_error_in_its_span(
    here_cli: Here, bfl: FakeBfl, folder: Path, collector: ScriptedServer
) -> None:
    bfl.submit_answer = Answer(422, {"detail": "no such animal"})
    assert perform(here_cli, bfl, folder).returncode == 1
    failed = {span.name: span for span in spans(collector) if span.status.code == 2 and span.name != "GET /local"}
    assert set(failed) == {
        "run clean",
        "item",
        "step deblur",
        "generate_content deblur-v1",
        "POST /v1/flux-tools/deblur-v1",
    }
    kinds = {name: plain(span.attributes)["error.type"] for name, span in failed.items()}
    assert kinds == {
        "run clean": "failed",
        "item": "invalid",
        "step deblur": "InvalidRequest",
        "generate_content deblur-v1": "InvalidRequest",
        "POST /v1/flux-tools/deblur-v1": "422",
    }
    assert "no such animal" in failed["item"].status.message


def test_metrics_count_jobs_credits_items_hits_and_429s_and_no_label_grows_with_the_items(
    here_cli: Here, bfl: FakeBfl, folder: Path, collector: ScriptedServer
) -> None:
    answers = [Answer(429, headers={"retry-after": "0"})]
    accept = bfl._submit
    bfl._submit = lambda path, request: answers.pop() if answers else accept(path, request)  # type: ignore[method-assign]
    assert perform(here_cli, bfl, folder).returncode == 0
    found = metrics(collector)
    both = [{"gen_ai.request.model": tool} for tool in ("deblur-v1", "erase-v1")]
    assert sorted(found["flux.credits"], key=str) == [(both[0], 6.0), (both[1], 6.0)]
    assert sorted(found["flux.jobs"], key=str) == [({"flux.outcome": "done", **one}, 2) for one in both]
    assert found["flux.items"] == [({"flux.outcome": "done"}, 2)]
    assert sum(count for _, count in found["flux.throttled"]) == 1
    assert {labels["gen_ai.request.model"]: count for labels, count in found["gen_ai.client.operation.duration"]} == {
        "deblur-v1": 2,
        "erase-v1": 2,
    }
    for load in ("flux.jobs.active", "flux.jobs.waiting"):  # of other tests' endpoints, too
        assert {name for about, _ in found.pop(load) for name in about} == {"server.address"}
    labels = {str(value) for points in found.values() for about, _ in points for value in about.values()}
    assert labels == {
        *("deblur-v1", "erase-v1", "done", "127.0.0.1", "generate_content", "black_forest_labs", "image"),
    }
    for path in (folder / "out").iterdir():
        path.unlink()
    assert perform(here_cli, bfl, folder, "--verify").returncode == 0
    assert sum(count for _, count in metrics(collector)["flux.store.hits"]) >= 4


def scraped(address: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as page:
        return str(page.read().decode())


def test_prometheus_sees_the_jobs_in_flight_and_the_page_ends_with_the_block(
    here_cli: Here, bfl: FakeBfl, folder: Path
) -> None:
    bfl.hold = True
    recipe = Recipe.load(folder / "recipe.yaml")
    given: Any = {"endpoint": bfl.url, "key": "right-key", "store": str(folder / "store"), "max_jobs": 1}
    run = threading.Thread(target=lambda: recipe.run(prefect="off", poll_interval=0.01, **given))
    with exporting(0) as address:
        run.start()
        wait_until(lambda: 'flux_jobs_active{server_address="127.0.0.1"} 1.0' in scraped(address))
        wait_until(lambda: 'flux_jobs_waiting{server_address="127.0.0.1"} 1.0' in scraped(address))
        bfl.hold = False
        run.join()
        page = scraped(address)
        assert 'flux_credits_total{gen_ai_request_model="erase-v1"} 6.0' in page
        assert "# TYPE gen_ai_client_operation_duration_seconds histogram" in page
        assert "p0" not in page
    assert probe.probe is None
    with pytest.raises(OSError, match="refused"):
        scraped(address)


def test_a_port_that_is_taken_is_an_error_where_it_was_asked_for_and_a_warning_in_the_environment(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = str(bfl.port)
    done = perform(here_cli, bfl, folder, "--metrics-port", taken)
    assert (done.returncode, bfl.jobs) == (2, 0)
    assert "--metrics-port: cannot be used (" in done.stderr
    assert "name another port, or 0 for any free one" in done.stderr
    monkeypatch.setenv("FLUX_METRICS_PORT", taken)
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, bfl.jobs, f"FLUX_METRICS_PORT={taken} cannot be used" in done.stderr) == (0, 4, True)
    monkeypatch.setenv("FLUX_METRICS_PORT", "many")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, "FLUX_METRICS_PORT: 'many' is no port" in done.stderr) == (2, True)
    assert perform(here_cli, bfl, folder, "--metrics-port", "70000").returncode == 2


def test_without_the_extra_it_is_said_what_to_install(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    done = perform(here_cli, bfl, folder, "--metrics-port", "0")
    assert (done.returncode, bfl.jobs) == (2, 0)
    assert "pip install 'flux-pipelines[telemetry]'" in done.stderr
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, "pip install 'flux-pipelines[telemetry]'" in done.stderr) == (0, True)


@pytest.mark.parametrize("is_there", [False, True], ids=["away", "hanging"])
def test_a_collector_that_is_away_or_hangs_is_one_line_and_delays_the_end_only_shortly(
    is_there: bool, here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, and never answers
        port = hanging.getsockname()[1] if is_there else unused_port()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        before = set(threading.enumerate())
        done = perform(here_cli, bfl, folder)
        assert done.returncode == 0
        if is_there:  # it is not waited for; one that is away may be given up earlier
            assert any(thread.name.startswith("Otel") for thread in set(threading.enumerate()) - before)
        [line] = done.stderr.splitlines()
        assert "OTEL_EXPORTER_OTLP_ENDPOINT: not all that was measured could be sent: " in line
    wait_until(lambda: not [one for one in set(threading.enumerate()) - before if one.name.startswith("Otel")])


def test_a_signal_while_the_collector_hangs_ends_the_wait_and_the_run_keeps_its_exit_code(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "PATIENCE", 600.0)
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as hanging:

        def take() -> None:
            taken.append(hanging.accept()[0])
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=take, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing is sent before the end
        done = perform(here_cli, bfl, folder)
    assert (done.returncode, "not all that was measured could be sent" in done.stderr) == (0, True)
    [connection] = taken
    with connection:
        connection.sendall(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n")  # ends what was given up
        wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("Otel")])


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "interval value 0.0 is invalid"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "max_queue_size must be a positive integer"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "must be a non-negative integer but got abc"),
    ],
)
def test_a_variable_of_opentelemetry_that_cannot_be_used_is_a_warning_and_the_page_for_prometheus_stays(
    collector: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: Any, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    before = set(threading.enumerate())
    with exporting(0) as address:
        assert probe.probe is not None
        probe.probe.throttled("erase-v1")
        assert "flux_throttled" in scraped(address)
    with exporting() as address:
        assert (address, probe.probe) == ("", None)
    assert not [one for one in set(threading.enumerate()) - before if one.name.startswith("Otel")]
    assert len(caplog.messages) == 2
    assert all(variable in said and why in said for said in caplog.messages)


@pytest.fixture
def own_sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A program that has set up an SDK of its own."""
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield kept
    probe.switch(None)


def test_a_program_with_an_sdk_of_its_own_gets_the_spans_within_its_own(
    own_sdk: InMemorySpanExporter, here_cli: Here, bfl: FakeBfl, folder: Path
) -> None:
    with trace.get_tracer("mine").start_as_current_span("mine") as mine:
        assert perform(here_cli, bfl, folder).returncode == 0
    [run] = [span for span in own_sdk.get_finished_spans() if span.name == "run clean"]
    assert run.parent is not None
    assert run.parent.span_id == mine.get_span_context().span_id
    assert "generate_content erase-v1" in {span.name for span in own_sdk.get_finished_spans()}
    with pytest.raises(RecipeError, match="this program has set up OpenTelemetry"), exporting(0):
        pass


def test_off_nothing_of_opentelemetry_is_even_imported(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    assert perform(here_cli, bfl, folder).returncode == 0
    assert probe.probe is None
    program = "import sys, pipelines.run.run, pipelines.cli.commands.run, flux_tasks.jobs.job\n"
    program += "from flux_tasks.api.telemetry.exporters import exporting\n"
    program += "with exporting(): print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
