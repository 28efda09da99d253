"""Test the completion scripts in the shells themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.tools import completion
from tests.exporters import _environment
from tests.programs import find
from tests.terminals import terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def shells(tmp_path: Path) -> Path:
    """Return a directory with a configuration, the program on its own, and the script of each shell."""
    (tmp_path / "blackbox.yml").write_text("modules: {web_one: {prober: http}, web_two: {prober: http}}")
    (tmp_path / "webby.py").touch()
    program = tmp_path / "bin" / "probe-exporter"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m probe_exporter "$@"\n')
    program.chmod(0o755)
    for shell in completion.PLACES:
        name = "_probe-exporter" if shell == "zsh" else shell
        (tmp_path / "bin" / name).write_text(completion.script(shell))
    return tmp_path


def environment(directory: Path) -> dict[str, str]:
    return _environment() | {"PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "HOME": str(directory)}


def in_bash(directory: Path, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = (
        f"source bin/bash; COMP_WORDS=(probe-exporter {line}); COMP_CWORD={len(words)}; _shtab_probe_exporter; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-c", code]
    done = subprocess.run(command, cwd=directory, env=environment(directory), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def in_fish(directory: Path, *words: str) -> list[str]:
    """Return what fish offers for the last word."""
    find("fish")
    command = ["fish", "--no-config", "-c", f"source bin/fish; complete -C 'probe-exporter {' '.join(words)}'"]
    done = subprocess.run(command, cwd=directory, env=environment(directory), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_bash_completes_tools_flags_and_choices(shells: Path) -> None:
    assert set(in_bash(shells, "")) >= {*flags.TOOLS, "config"}
    assert in_bash(shells, "doc") == ["doctor"]
    assert in_bash(shells, "config", "") == ["schema"]
    assert "--web.listen-address" in in_bash(shells, "--web.l")
    assert in_bash(shells, "doctor", "--output", "") == ["text", "json"]


def test_bash_completes_names_and_files(shells: Path) -> None:
    assert in_bash(shells, "run", "web") == ["web_one", "web_two", "webby.py"]
    assert in_bash(shells, "modules", "web_t") == ["web_two"]
    assert in_bash(shells, "probers", "gr") == ["grpc"]
    assert in_bash(shells, "prometheus-config", "--module", "web_o") == ["web_one"]
    assert in_bash(shells, "--config.file", "black") == ["blackbox.yml"]


def test_bash_completes_what_a_person_types(shells: Path) -> None:
    with terminal(["bash", "--norc", "-i"], shells, environment(shells)) as shell:
        shell.type("PS1='$ '; source bin/bash; echo read''y\n")
        shell.expect("\nready")
        shell.type("probe-exporter run web_o\t")
        shell.expect("run web_one")


def test_fish_completes_tools_flags_and_names(shells: Path) -> None:
    assert in_fish(shells, "doc") == ["doctor"]
    assert "--web.listen-address" in in_fish(shells, "--web.l")
    assert {"web_one", "web_two", "webby.py"} <= set(in_fish(shells, "run", "web"))
    assert in_fish(shells, "modules", "web_t") == ["web_two"]


def test_zsh_completes_tools_and_names(shells: Path) -> None:
    find("zsh")
    with terminal(["zsh", "-f", "-i"], shells, environment(shells)) as shell:
        shell.type("PS1='$ '; fpath=($PWD/bin $fpath); autoload -U compinit; compinit -u -D; echo read''y\n")
        shell.expect("\nready")
        shell.type("probe-exporter doc\t")
        shell.expect("probe-exporter doctor")
        shell.type("--outp\t")
        shell.expect("--output")
        shell.type("\x15probe-exporter run web_o\t")
        shell.expect("run web_one")
