"""Tests of the flags: an existing unit file or container spec works unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.flags import Flags
from probe_exporter.version import VERSION

NAMES = """
    --config.file --config.check --config.enable-auto-reload --config.auto-reload-interval --timeout-offset
    --history.limit --log.level --log.format --log.prober --web.listen-address --web.systemd-socket
    --web.config.file --web.external-url --web.route-prefix --help --help-long --help-man --version
    --modules.dir --config.expand-env --config.strict --web.drain-timeout
"""
"""The original's, all of them; and ours in the last line."""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error line for a command line."""
    with pytest.raises(SystemExit) as exit:
        flags.parse(arguments)
    shown = capsys.readouterr()
    assert (exit.value.code, shown.out) == (1, "")
    (line,) = shown.err.splitlines()
    return line


def test_flags_have_defaults() -> None:
    given = vars(flags.parse([]))
    assert given == {
        "command": (),
        "config_auto_reload_interval": 30,
        "config_check": False,
        "config_enable_auto_reload": False,
        "config_expand_env": False,
        "config_file": [],
        "config_strict": False,
        "history_limit": 100,
        "history_max_bytes": 64 << 20,
        "history_path": "",
        "probe_max_concurrent": 4096,
        "probe_event_loop_delay": False,
        "log_format": "logfmt",
        "log_level": "info",
        "log_prober": "info",
        "modules_dir": [],
        "modules_ignore_errors": False,
        "timeout_offset": 0.5,
        "web_config_file": "",
        "web_drain_timeout": 20.0,
        "web_external_url": None,
        "web_listen_address": [],
        "web_max_connection_age": 0.0,
        "web_route_prefix": None,
        "web_systemd_socket": False,
        "workers": 1,
    }
    assert given.keys() == Flags.__annotations__.keys()


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--config.file=a.yml"], "config_file", ["a.yml"]),
        (["--config.file", "a.yml"], "config_file", ["a.yml"]),
        (["--config.file=a.yml", "--config.file=b"], "config_file", ["a.yml", "b"]),
        (["--modules.dir=a", "--modules.dir", "b"], "modules_dir", ["a", "b"]),
        (["--config.check"], "config_check", True),
        (["--no-config.check"], "config_check", False),
        (["--config.enable-auto-reload"], "config_enable_auto_reload", True),
        (["--config.auto-reload-interval=0"], "config_auto_reload_interval", 0),
        (["--history.limit=0x10"], "history_limit", 16),
        (["--history.limit=0X1F"], "history_limit", 31),
        (["--history.limit=010"], "history_limit", 8),
        (["--history.limit=0o10"], "history_limit", 8),
        (["--history.limit=0_7"], "history_limit", 7),
        (["--history.limit=00"], "history_limit", 0),
        (["--history.limit=0b11"], "history_limit", 3),
        (["--history.limit=1_000"], "history_limit", 1000),
        (["--history.limit=18446744073709551615"], "history_limit", 2**64 - 1),
        (["--timeout-offset=-1"], "timeout_offset", -1.0),
        (["--timeout-offset=1_0"], "timeout_offset", 10.0),
        (["--timeout-offset=.25"], "timeout_offset", 0.25),
        (["--log.level=WARN"], "log_level", "warn"),
        (["--log.format=json"], "log_format", "json"),
        (["--log.prober=nonsense"], "log_prober", "nonsense"),
        (["--web.listen-address=:1", "--web.listen-address=[::1]:2"], "web_listen_address", [":1", "[::1]:2"]),
        (["--web.external-url=http://x/"], "web_external_url", "http://x/"),
        (["--web.route-prefix=/"], "web_route_prefix", "/"),
        (["--web.drain-timeout=1m30s"], "web_drain_timeout", 90.0),
        (["--web.max-connection-age=5m"], "web_max_connection_age", 300.0),
        (["--web.max-connection-age=0"], "web_max_connection_age", 0.0),
        (["--probe.max-concurrent=10"], "probe_max_concurrent", 10),
        (["--workers=4"], "workers", 4),
        (["--workers=auto"], "workers", flags.AUTO_WORKERS),
        (["config", "schema"], "command", ("config", "schema")),
        (["config", "--modules.dir=x", "schema"], "command", ("config", "schema")),
    ],
)
def test_flags_accept_all_forms(arguments: list[str], name: str, value: object) -> None:
    assert getattr(flags.parse(arguments), name) == value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nope"], "unknown long flag '--nope'"),
        (["--nope=1"], "unknown long flag '--nope'"),
        (["--config.che"], "unknown long flag '--config.che' (did you mean --config.check?), try --help"),
        (["--confg.file=x"], "unknown long flag '--confg.file' (did you mean --config.file?), try --help"),
        (["-config.check"], "unknown short flag '-c'"),
        (["-x"], "unknown short flag '-x'"),
        (["extra"], "unexpected extra, try --help"),
        (["rn", "http_2xx"], "unexpected rn http_2xx (did you mean run?), try --help"),
        (["module"], "unexpected module (did you mean modules?), try --help"),
        (["--", "extra"], "unexpected extra"),
        (["config"], "unexpected config"),
        (["config", "nonsense"], "unexpected config nonsense"),
        (["--config.check", "run", "x"], "unexpected run x: `probe-exporter run` comes first"),
        (["--config.check=true"], "config.check"),
        (["--no-config.check=1"], "config.check"),
        (["--config.check", "--config.check"], "'config.check' cannot be repeated"),
        (["--config.check", "--no-config.check"], "'config.check' cannot be repeated"),
        (["--history.limit=1", "--history.limit=1"], "'history.limit' cannot be repeated"),
        (["--history.limit=-1"], "history.limit"),
        (["--history.limit=1.5"], "history.limit"),
        (["--history.limit="], "history.limit"),
        (["--history.limit=08"], "'08' is not a whole number from 0 up"),
        (["--history.limit=1__0"], "'1__0' is not a whole number from 0 up"),
        (["--history.limit=0x"], "history.limit"),
        (["--history.limit=+1"], "history.limit"),
        (["--history.limit= 1"], "history.limit"),
        (["--history.limit=\u0663"], "history.limit"),
        (["--history.limit=18446744073709551616"], "history.limit"),
        (["--config.auto-reload-interval=1.5"], "auto-reload-interval"),
        (["--config.file="], "can't be empty"),
        (["--timeout-offset=x"], "'x' is not a number"),
        (["--timeout-offset"], "--timeout-offset"),
        (["--log.level=loud"], "unrecognized log level loud"),
        (["--log.format=LOGFMT"], "unrecognized log format LOGFMT"),
        (["--web.drain-timeout=5"], "lacks a unit"),
        (["--web.drain-timeout=-5s"], "negative"),
        (["--web.max-connection-age=-5m"], "negative"),
        (["@/no/such/file"], "/no/such/file"),
    ],
)
def test_flags_refuse_bad_arguments_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *arguments)
    assert line.startswith("probe-exporter: error: ")
    assert says in line
    assert line.endswith(", try --help")


def test_flags_read_arguments_from_file(tmp_path: Path) -> None:
    file = tmp_path / "flags"
    file.write_text("# of this host\n--config.file=a b.yml\n#--log.level=debug\n\n \n--history.limit\n7\n")
    given = flags.parse(["--config.check", f"@{file}"])
    assert (given.config_file, given.history_limit, given.config_check) == (["a b.yml"], 7, True)


@pytest.mark.parametrize("flag", ["-h", "--help", "--help-long", "--help-man"])
def test_help_lists_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        flags.parse([flag])
    shown = capsys.readouterr()
    assert (exit.value.code, shown.err) == (0, "")
    text = shown.out.replace("\\-", "-")
    assert [name for name in NAMES.split() if name not in text] == []


def test_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        flags.parse(["--version"])
    shown = capsys.readouterr()
    assert (exit.value.code, shown.err) == (0, "")
    assert shown.out.startswith(f"probe-exporter, version {VERSION} (revision: ")
