"""Tests of log lines: logfmt with slog's quoting, or one JSON object per line."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result, run
from probe_exporter.settings.block import Settings
from probe_exporter.telemetry import logs
from probe_exporter.telemetry.logs import as_json, logfmt
from tests.history.test_memory import MODULES

NOON = 1_782_907_200.123456


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to the test's parameter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def quiet_again() -> Iterator[None]:
    """Undo what `logs.setup` does to the whole process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("zone", "logfmt_time", "json_time"),
    [
        ("UTC", "2026-07-01T12:00:00.123Z", "2026-07-01T12:00:00.123456001Z"),
        ("CET-2", "2026-07-01T14:00:00.123+02:00", "2026-07-01T14:00:00.123456001+02:00"),
        ("NST3:30", "2026-07-01T08:30:00.123-03:30", "2026-07-01T08:30:00.123456001-03:30"),
    ],
    indirect=["zone"],
)
def test_log_time_is_in_local_zone(logfmt_time: str, json_time: str) -> None:
    assert logfmt(NOON, logging.INFO, "a.py:1", "m", {}).split(" ")[0] == f"time={logfmt_time}"
    assert json.loads(as_json(NOON, logging.INFO, "a.py:1", "m", {}))["time"][:26] == json_time[:26]
    assert json.loads(as_json(NOON, logging.INFO, "a.py:1", "m", {}))["time"][29:] == json_time[29:]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("http://127.0.0.1:1/x?y", "http://127.0.0.1:1/x?y"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", "back\\slash"),
        ("a\nb\tc", '"a\\nb\\tc"'),
        ("bell\a\x01\x7f", '"bell\\a\\x01\\x7f"'),
        ("€", "€"),
        ("a €", '"a €"'),
        ("no\u00a0break", '"no\\u00a0break"'),
        ("\U000e0001", '"\\U000e0001"'),
        (1, "1"),
        (True, "true"),
        (0.5, "0.5"),
        (3668918509.0, "3.668918509e+09"),
        (None, "None"),
        (["a", 1], '"[\\"a\\",1]"'),
        (b"caf\xe9", "caf\\xe9"),
    ],
)
def test_logfmt_quotes_where_needed(value: object, text: str) -> None:
    line = logfmt(NOON, logging.WARNING, "a.py:1", "m", {"key": value})
    assert line.partition(" ")[2] == f"level=WARN source=a.py:1 msg=m key={text}"


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.floats() | st.integers() | st.none()))
def test_log_entry_is_one_line(message: str, fields: dict[str, object]) -> None:
    for line in (logfmt, as_json):
        text = line(NOON, logging.INFO, "a.py:1", message, fields)
        assert len(text.splitlines()) == 1 or not any(c in text for c in "\n\r")
    assert json.loads(as_json(NOON, logging.INFO, "a.py:1", message, fields))["msg"] == message


def test_json_log_keeps_numbers_and_reserved_keys() -> None:
    fields = {"duration": 0.5, "ok": True, "huge": float("inf"), "msg": "a field", "list": (1, "a"), "none": None}
    line = json.loads(as_json(NOON, logging.ERROR, "a.py:1", "the message", fields))
    assert list(line) == ["time", "level", "source", "msg", "duration", "ok", "huge", "list", "none"]
    assert (line["level"], line["source"], line["msg"]) == ("ERROR", "a.py:1", "the message")
    assert (line["duration"], line["ok"], line["huge"], line["list"]) == (0.5, True, "+Inf", [1, "a"])


@pytest.mark.usefixtures("quiet_again")
def test_application_log_has_source_and_fields() -> None:
    stream = io.StringIO()
    logs.setup(logging.INFO, "logfmt", stream)
    log = logging.getLogger("probe_exporter.test")
    log.info("Listening", extra={"fields": {"address": "[::]:9115"}})
    log.debug("Not this")
    pattern = r"time=\S+ level=INFO source=test_logs\.py:\d+ msg=Listening address=\[::\]:9115\n"
    assert re.fullmatch(pattern, stream.getvalue())


@pytest.mark.usefixtures("quiet_again")
@pytest.mark.parametrize("format", ["logfmt", "json"])
def test_traceback_stays_on_one_line(format: logs.FormatName) -> None:
    stream = io.StringIO()
    logs.setup(logging.INFO, format, stream)
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        logging.getLogger("probe_exporter.test").exception("A bug")
    (line,) = stream.getvalue().splitlines()
    assert "it broke" in line
    assert "test_traceback_stays_on_one_line" in line


@pytest.mark.usefixtures("quiet_again")
def test_terminal_gets_a_traceback_in_lines_and_no_control_characters() -> None:
    stream = io.StringIO()
    logs.setup(logging.INFO, logs.for_terminal, stream)
    log = logging.getLogger("probe_exporter.test")
    try:
        raise RuntimeError("it \x1b[2J broke")
    except RuntimeError:
        log.exception("A bug", extra={"fields": {"target": "a b"}})
    log.warning("first\x9b\nsecond\n")
    first, *trace, last, warning, more = stream.getvalue().splitlines()
    assert first == 'ERROR A bug target="a b"'
    assert trace[0] == "Traceback (most recent call last):"
    assert '    raise RuntimeError("it \\x1b[2J broke")' in trace
    assert last == r"RuntimeError: it \x1b[2J broke"
    assert (warning, more) == (r"WARN first\u009b", "second")


def a_result() -> Result:
    probe = Probe("tar get", 0.0)
    probe.log("Connected", ip="127.0.0.1")
    probe.log("Redirected", level=logging.WARNING, to="/x")
    probe.log("Probe failed", level=logging.ERROR, err="no luck")
    return Result(MODULES["one"], "tar get", probe, None, "", 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        (logging.DEBUG, ["Connected", "Redirected", '"Probe failed"']),
        (logging.INFO, ["Redirected", '"Probe failed"']),
        (logging.ERROR, ['"Probe failed"']),
    ],
)
def test_probe_log_respects_level(level: int, messages: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log = ProbeLog(level)
    text = log.text(a_result())
    assert re.findall(r'msg=("[^"]*"|\S+)', text) == messages
    log.write(a_result())
    without_time = re.compile(r"(?m)^time=\S+ ")
    assert without_time.sub("", capsys.readouterr().err) == without_time.sub("", text)


def test_probe_log_names_source_module_and_target() -> None:
    (line,) = ProbeLog(logging.ERROR).text(a_result()).splitlines()
    pattern = (
        r'time=\S+ level=ERROR source=test_logs\.py:\d+ msg="Probe failed" module=one target="tar get" err="no luck"'
    )
    assert re.fullmatch(pattern, line)
    (line,) = ProbeLog(logging.ERROR, "json").text(a_result()).splitlines()
    assert list(json.loads(line)) == ["time", "level", "source", "msg", "module", "target", "err"]


def test_probe_log_without_entries_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    probe = Probe("x", 0.0)
    probe.log("Quiet")
    result = Result(MODULES["one"], "x", probe, None, "", 0.0, 0.0, 1.0)
    ProbeLog().write(result)
    assert (ProbeLog().text(result), capsys.readouterr().err) == ("", "")


# --- failed probes, and secrets ----------------------------------------------------------------------------


async def fails(probe: Probe, settings: Settings) -> None:
    probe.log("Trying", url="http://u:hunter2@h/", module="of its own", target="of its own")
    with probe.phase("connect"):
        raise ProbeFailed(Reason.CONNECT_REFUSED, f"nothing listens at {probe.target}", port=1)


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error"])
@pytest.mark.parametrize("format", ["logfmt", "json"])
async def test_probe_log_explains_failure_in_one_line(
    level: str, format: logs.FormatName, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Module("m", Prober("p", Settings, fails), Settings(), 0.0, Place("test.yml"))
    result = await run(module, "u:hunter2@h", 5.0)
    ProbeLog(logs.LEVELS[level], format).write(result)
    written = capsys.readouterr().err
    (line,) = [line for line in written.splitlines() if "reason" in line]
    if format == "json":
        said = json.loads(line)
        assert said.pop("duration_seconds") == result.duration
        assert list(said.items())[3:] == [
            ("msg", "Probe failed"),
            ("module", "m"),
            ("target", "u:xxxxx@h"),
            ("reason", "connect_refused"),
            ("phase", "connect"),
            ("err", "nothing listens at u:xxxxx@h"),
            ("port", 1),
        ]
    else:
        why = 'module=m target=u:xxxxx@h reason=connect_refused phase=connect err="nothing listens at u:xxxxx@h" port=1'
        assert "level=ERROR source=runner.py:" in line
        assert f'msg="Probe failed" {why} duration_seconds=' in line
    assert len(written.splitlines()) == (3 if level == "debug" else 1)
    assert "hunter2" not in written
    assert "of its own" not in written


@pytest.mark.usefixtures("quiet_again")
@pytest.mark.parametrize("format", ["logfmt", "json"])
def test_application_log_masks_url_passwords(format: logs.FormatName) -> None:
    stream = io.StringIO()
    logs.setup(logging.INFO, format, stream)
    log = logging.getLogger("probe_exporter.test")
    fields = {"url": "http://u:hunter2@h/", "urls": ["http://u:hunter2@h/"], "count": 1, "none": None, "time": 0.5}
    log.info("Asking http://u:hunter2@h/", extra={"fields": fields})
    try:
        raise ValueError("bad: http://u:hunter2@h/")
    except ValueError:
        log.exception("A bug")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert text.count("http://u:xxxxx@h/") >= 5
    if format == "json":
        first = json.loads(text.splitlines()[0])
        assert (first["count"], first["none"]) == (1, None), "what is no text stays what it is"
        assert first["urls"] == ["http://u:xxxxx@h/"]


@given(st.text(st.sampled_from('ab "=\\\n\x00\x7fé\u2028\ud800😀')))
def test_quoted_text_is_what_its_characters_are(text: str) -> None:
    assert logs._quoted(f" {text}") == '" ' + "".join(map(logs._quoted_character, text)) + '"'
