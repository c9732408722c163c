"""What log lines look like, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
import warnings

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from configcache_worker.observe import logs
from configcache_worker.observe.traces import Traces


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    drivers = {name: logging.getLogger(name).level for name in ("aiormq", "aio_pika")}
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, driver_level in drivers.items():
        logging.getLogger(name).setLevel(driver_level)


@pytest.fixture
def stream():
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(error: Exception) -> None:
    raise error


def log():
    return structlog.stdlib.get_logger()


def test_a_json_line_has_time_level_event_and_fields(stream):
    logs.configure("json", "info", stream)

    log().info("batch.cleared", rows=3, instance="Blåbær")

    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "rows", "instance"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["rows"]) == ("info", "batch.cleared", 3)
    assert "Blåbær" in stream.getvalue()


def test_lines_below_the_level_are_dropped(stream):
    logs.configure("json", "warning", stream)

    log().info("batch.cleared")
    log().warning("session.failed")
    logging.getLogger("some.driver").info("chatter")

    assert [line["event"] for line in lines(stream)] == ["session.failed"]


@pytest.mark.parametrize(("stream", "as_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_auto_means_console_on_a_terminal_and_json_elsewhere(stream, as_json):
    logs.configure("auto", "info", stream)

    log().info("worker.started")

    assert stream.getvalue().startswith("{") is as_json


def test_library_records_take_the_same_form(stream):
    logs.configure("json", "info", stream)

    logging.getLogger("some.driver").log(35, "lost %d of %d", 1, 2)

    (line,) = lines(stream)
    assert line["event"] == "library.logged"
    assert (line["level"], line["logger"], line["message"]) == ("warning", "some.driver", "lost 1 of 2")


def test_warnings_take_the_same_form(stream):
    logs.configure("json", "info", stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in lines(stream)[0]["message"]


@pytest.mark.parametrize("name", ["aiormq.connection", "aio_pika.channel"])
def test_the_drivers_tracebacks_are_not_shown(stream, name):
    logs.configure("json", "debug", stream)

    logging.getLogger(name).critical("connection lost", exc_info=ConnectionError())

    assert stream.getvalue() == ""


@pytest.mark.parametrize("kind", ["current", "given"])
def test_the_console_tells_an_exception_in_one_line(stream, kind):
    logs.configure("console", "info", stream)

    try:
        fail(RuntimeError("broken"))
    except RuntimeError as error:
        log().error("worker.died", exc_info=True if kind == "current" else error)

    assert len(stream.getvalue().splitlines()) == 1
    assert "RuntimeError: broken" in stream.getvalue()


def test_a_librarys_exception_is_one_line_on_the_console_too(stream):
    logs.configure("console", "info", stream)

    logging.getLogger("some.driver").error("oops", exc_info=RuntimeError("broken"))

    assert len(stream.getvalue().splitlines()) == 1
    assert "RuntimeError: broken" in stream.getvalue()


def test_json_keeps_the_traceback_in_a_field(stream):
    logs.configure("json", "info", stream)

    try:
        fail(RuntimeError("broken"))
    except RuntimeError:
        log().exception("worker.died")

    (line,) = lines(stream)
    assert line["error"] == "RuntimeError: broken"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("RuntimeError: broken")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_passwords_in_urls_are_masked_wherever_they_stand(stream, log_format):
    url = "amqp://user:hidden@host/"
    logs.configure(log_format, "info", stream)

    log().info("session.failed", url=url, urls=[url], by_name={"a": url}, error=OSError(url))
    logging.getLogger("some.driver").warning("lost %s", url)
    try:
        fail(OSError(url))
    except OSError:
        log().exception("worker.died")

    assert "user:***@host" in stream.getvalue()
    assert "hidden" not in stream.getvalue()


def test_configuring_again_does_not_double_the_lines(stream):
    logs.configure("json", "info", io.StringIO())
    logs.configure("json", "info", stream)

    logging.getLogger("some.driver").warning("once")

    assert len(lines(stream)) == 1


def test_a_line_names_the_span_it_is_written_in_and_one_outside_of_any_names_none(stream):
    exporter = InMemorySpanExporter()
    tracing = Traces(service="tests", exporter=exporter)
    logs.configure("json", "info", stream, fields=tracing.log_fields)

    with tracing.sends().sending(None, None):
        log().info("part.inside")
    log().info("part.outside")
    tracing.flush()

    (span,) = exporter.get_finished_spans()
    inside, outside = lines(stream)
    assert inside["trace_id"] == f"{span.context.trace_id:032x}"
    assert inside["span_id"] == f"{span.context.span_id:016x}"
    assert not {"trace_id", "span_id"} & outside.keys()
    tracing.stop()
