"""Print finished probes for a person: one in full, several as a table, repeated ones in a line each.

The width is that of the terminal. Colours are left out where NO_COLOR is set, or where the output is no terminal; no
meaning is in colour alone. Texts come from targets and servers, so control characters are printed as escapes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from probe_exporter.report.advice import Explanation
from probe_exporter.report.peers import Certificate, Peer
from probe_exporter.report.report import Family, Report, RunRow, Step, of_result, seconds
from probe_exporter.report.waterfall import Bar
from probe_exporter.runner import Result
from probe_exporter.settings.fields import shorten

MAX_WIDTH = 120
"""Columns that are used at most; longer lines are hard to read."""

WIDE = 75
"""Columns from which on a bar has a text beside it, and a certificate its date."""

MAX_RUNS = 64
"""Runs of one probe that are printed."""

MAX_SAMPLES = 16
"""Samples that are printed; `--output metrics` prints all."""

_SAID = {
    *("probe_success", "probe_duration_seconds", "probe_timeout_seconds", "probe_failure_info"),
    *("probe_address_success", "probe_address_failure_info", "probe_attempt_failure_info"),
}
"""Metrics whose values the verdict and the table of runs show."""

MAX_DETAIL_CHARACTERS = 300
"""Characters of each detail of a failure that are printed; `--debug` prints more."""

_IN_EVERY_VERDICT = {"reason", "phase", "err", "duration_seconds"}
"""Fields of the log's last line that the summary prints in other places."""

_GOOD, _BAD, _MAYBE, _FAINT, _HEAD, _CODE = "green", "red", "yellow", "dim", "bold", "bold"


class Summary:
    """Prints to stdout; a progress bar goes to stderr."""

    def __init__(self, *, debug: bool, repeated: bool) -> None:
        """
        Args:
            debug: print the log and the settings of each probe, too.
            repeated: rounds follow each other.
        """
        self._debug = debug
        self._repeated = repeated
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._console.width = min(self._console.width, MAX_WIDTH)
        self._mark = "" if self._console.is_terminal else "`"
        self._progress: Progress | None = None
        self._before: str | None = None
        self._tally = _Tally()

    def begin(self, number: int) -> None:
        """Show a progress bar if there are several probes."""
        if number > 1 and sys.stderr.isatty():
            columns = (TextColumn("probing"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, console=Console(file=sys.stderr), transient=True)
            self._progress.add_task("probing", total=number)
            self._progress.start()

    def done(self) -> None:
        """Advance the progress bar."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def end(self, results: Sequence[Result]) -> None:
        """Print the results."""
        self._stop_progress()
        if len(results) > 1:
            self._print_round(results)
            return
        report = of_result(results[0])
        self._tally.add(report)
        state = "" if report.explanation is None else report.explanation.reason
        if self._repeated and state == self._before:
            self._console.print(_line(report), no_wrap=True, overflow="ellipsis")
        else:
            self._print_report(report)
        self._before = state

    def close(self) -> None:
        """Print how many of repeated probes failed."""
        self._stop_progress()
        if self._repeated and self._tally.number:
            self._console.print(self._tally.text())

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    # --- one probe -----------------------------------------------------------------------------------------------

    def _print_report(self, report: Report) -> None:
        out, width = self._console, self._console.width
        out.print(_title(report))
        out.print(Text(_printable(report.verdict)))
        for sentence in report.revoked:
            out.print(Text(_printable(sentence), _BAD))
        if report.explanation is not None:
            self._failure(report, report.explanation)
        if len(report.runs) > 1:
            self._runs(report)
        name, bars = _phases(report)
        if bars:
            self._heading(f"Phases of {name}" if name else "Phases")
            self._lines(_waterfall(bars, width, self._console.encoding))
        several = len({sender for peer in report.peers for sender in peer.senders}) > 1 or len(report.runs) > 1
        for peer in report.peers:
            self._heading(_handshake(peer, named=several))
            self._certificates(peer)
        if report.success or self._debug:
            self._samples(report.families, report.samples_left_out)
        if self._debug:
            self._heading("Log")
            for step in report.steps:
                self._log_line(step)
            self._heading("Settings")
            self._lines([Text(f"  {_printable(line)}") for line in report.settings.splitlines()])
        out.print()

    def _failure(self, report: Report, explanation: Explanation) -> None:
        """Print why the probe failed, and what to try."""
        self._console.print()
        self._console.print(Text.assemble((explanation.reason, _BAD), f": {_printable(report.message)}"))
        for name, value in _details(report):
            self._paragraph(Text.assemble((f"{_printable(name)}: ", _FAINT), _printable(value)))
        self._paragraph(_prose(explanation.meaning, self._mark))
        if explanation.advice != explanation.meaning:
            self._heading("What to try")
            self._paragraph(_prose(explanation.advice, self._mark))

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(_printable(text), _HEAD))

    def _paragraph(self, text: Text) -> None:
        """Print a text in lines that are indented."""
        for line in text.wrap(self._console, self._console.width - 2):
            line.rstrip()
            self._console.print(Text.assemble("  ", line))

    def _log_line(self, step: Step) -> None:
        """Print a line of the log in full, on as many lines as it takes."""
        style = _BAD if step.level.lower() == "error" else _MAYBE if step.level.lower().startswith("warn") else ""
        fields = "".join([f" {name}={value}" for name, value in step.fields])
        text = Text.assemble((_printable(step.message), style), _printable(fields))
        indent = f"  {seconds(step.offset):>8}  "
        for line in text.wrap(self._console, self._console.width - len(indent)):
            line.rstrip()
            self._console.print(Text.assemble((indent, _FAINT), line))
            indent = " " * len(indent)

    def _lines(self, lines: Iterable[Text]) -> None:
        for line in lines:
            self._console.print(line, no_wrap=True, overflow="ellipsis")

    def _runs(self, report: Report) -> None:
        """Print a table of the runs."""
        self._heading("Runs")
        self._console.print(_runs_table(report.runs[:MAX_RUNS], self._console.width))
        more = len(report.runs) - MAX_RUNS + report.runs_left_out
        if more > 0:
            self._console.print(Text(f"  and {more} more", _FAINT))

    def _certificates(self, peer: Peer) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True)
        for one in peer.certificates:
            when = f"  {one.expiry}" if self._console.width >= WIDE else ""
            table.add_row(f"  {one.role}", _printable(one.title), Text.assemble((one.left, _style(one)), when))
        self._console.print(table)
        for one in peer.certificates:
            for sentences, style in ((one.wrong, _BAD), (one.warnings, _MAYBE)):
                for sentence in sentences:
                    title = f"{_printable(one.title)}: "
                    self._paragraph(Text.assemble((title, _HEAD), (_printable(sentence), style)))
        if peer.left_out:
            self._console.print(Text(f"  and {peer.left_out} more", _FAINT))

    def _samples(self, families: Sequence[Family], left_out: int) -> None:
        lines = [*_sample_lines(families)]
        if lines:
            self._heading("Measured")
            self._lines([Text(f"  {line}") for line in lines[:MAX_SAMPLES]])
        more = len(lines) - MAX_SAMPLES + left_out
        if more > 0:
            self._console.print(Text(f"  and {more} more: --output metrics", _FAINT))

    # --- several probes ------------------------------------------------------------------------------------------

    def _print_round(self, results: Sequence[Result]) -> None:
        """Print a table, failures first, and a sentence."""
        reports = sorted(map(of_result, results), key=lambda report: report.success)
        if self._repeated:
            self._console.print(Text(_now(), _HEAD))
        self._console.print(_table(reports, self._console.width))
        failed = sum(not report.success for report in reports)
        if failed:
            self._console.print(Text(f"{failed} of {len(reports)} probes failed.", _BAD))
        else:
            self._console.print(Text(f"All {len(reports)} probes succeeded.", _GOOD))
        for report in reports if self._debug else ():
            self._console.rule(characters="-")
            self._print_report(report)


class _Tally:
    """Counts repeated probes and their durations."""

    def __init__(self) -> None:
        self.number = self.failed = 0
        self.least, self.most, self.sum = float("inf"), 0.0, 0.0

    def add(self, report: Report) -> None:
        self.number += 1
        self.failed += not report.success
        self.least, self.most = min(self.least, report.duration), max(self.most, report.duration)
        self.sum += report.duration

    def text(self) -> Text:
        times = " / ".join(map(seconds, (self.least, self.sum / self.number, self.most)))
        return Text(f"{self.number} probes, {self.failed} failed; least / mean / most time: {times}", _HEAD)


def _word(report: Report) -> tuple[str, str]:
    """Return the verdict as a word and its style."""
    return ("PASS", f"bold {_GOOD}") if report.success else ("FAIL", f"bold {_BAD}")


def _title(report: Report) -> Text:
    return Text.assemble(_word(report), f"  {_printable(report.module)}  {_printable(report.target)}")


def _line(report: Report) -> Text:
    """Return one of repeated probes as a line."""
    why = "" if report.explanation is None else f"  {report.explanation.reason}: {_printable(report.message)}"
    return Text.assemble((_now(), _FAINT), "  ", _word(report), f"  {seconds(report.duration):>8}{why}")


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _table(reports: Sequence[Report], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_HEAD)
    several = len({report.module for report in reports}) > 1
    failing = any(not report.success for report in reports)
    table.add_column("RESULT", no_wrap=True)
    if several:
        table.add_column("MODULE", no_wrap=True, overflow="ellipsis")
    table.add_column("TARGET", overflow="fold", ratio=1)
    table.add_column("TIME", no_wrap=True, justify="right")
    if failing:
        table.add_column("REASON", overflow="fold", no_wrap=width < WIDE)
    for report in reports:
        why = "" if report.explanation is None else report.explanation.reason
        if why and width >= WIDE:
            why = f"{why}: {_printable(report.message)}"
        module, reason = [_printable(report.module)] if several else [], [why] if failing else []
        row = (*module, _printable(report.target), seconds(report.duration), *reason)
        table.add_row(Text(*_word(report)), *map(Text, row))
    return table


def _runs_table(runs: Sequence[RunRow], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_HEAD)
    failing = any(not run.passed for run in runs)
    table.add_column("  RUN", overflow="fold")
    table.add_column("RESULT", no_wrap=True)
    table.add_column("TIME", no_wrap=True, justify="right")
    if failing:
        table.add_column("REASON", overflow="fold", no_wrap=width < WIDE)
    for run in runs:
        why = f"{run.reason}: {_printable(run.message)}" if run.reason and width >= WIDE else run.reason
        decides = " (decides)" if run.decides else ""
        style = _GOOD if run.passed else _BAD
        row = [Text(f"  {_printable(run.name)}{decides}"), Text("PASS" if run.passed else "FAIL", style)]
        table.add_row(*row, Text(seconds(run.seconds)), *([Text(why)] if failing else []))
    return table


def _phases(report: Report) -> tuple[str, Sequence[Bar]]:
    """Return the phases to draw: those of the deciding run with its name, if the probe made several."""
    deciding = next((run for run in report.runs if run.decides), None)
    if deciding is None:
        return "", report.bars
    return deciding.name if len(report.runs) > 1 else "", deciding.bars


def _handshake(peer: Peer, *, named: bool) -> str:
    """Return the heading of a handshake's certificates; `named` adds what sent them."""
    what = ", ".join([part for part in (peer.version, peer.cipher, peer.protocol) if part])
    name = f" of {peer.server_name}" if peer.server_name else ""
    return f"Certificates{name}{peer.sent_by if named else ''} ({what}). {peer.verdict}"


def _style(one: Certificate) -> str:
    return _BAD if one.wrong else _MAYBE if one.warnings else _GOOD


def _waterfall(bars: Sequence[Bar], width: int, encoding: str) -> Iterator[Text]:
    """Yield a line for each phase: its name, its duration, a bar, and what it dealt with if there is room."""
    block, cross = ("█", "✗") if encoding.lower().startswith("utf") else ("#", "x")
    names = [f"{cross if bar.failed else ' '} {'  ' * bar.depth}{_printable(bar.name)}" for bar in bars]
    times = [seconds(bar.seconds) for bar in bars]
    name_width, time_width = max(map(cell_len, names)), max(map(cell_len, times))
    left = width - name_width - time_width - 6
    about_width = left // 2 if width >= WIDE and any(bar.about for bar in bars) else 0
    room = max(left - about_width, 4)
    for bar, name, took in zip(bars, names, times, strict=True):
        begin = min(int(bar.left * room / 100), room - 1)
        length = min(max(round(bar.width * room / 100), 1), room - begin)
        style = _BAD if bar.failed else _GOOD
        drawn = f"{' ' * begin}{block * length}"
        about = f"  {_printable(bar.about)}" if about_width and bar.about else ""
        line = Text.assemble((set_cell_size(name, name_width), _BAD if bar.failed else ""), f"  {took:>{time_width}}  ")
        yield line.append(drawn.ljust(room) if about else drawn, style).append(about, _FAINT)


def _sample_lines(families: Iterable[Family]) -> Iterator[str]:
    """Yield the samples of the target: not those of the verdict, and no durations, which the waterfall shows."""
    for family in families:
        if family.name in _SAID or "_duration_seconds" in family.name:
            continue
        for sample in family.samples:
            labels = ",".join([f'{name}="{value}"' for name, value in sample.labels])
            yield _printable(f"{sample.name}{{{labels}}} {sample.value}" if labels else f"{sample.name} {sample.value}")


def _details(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what the prober gave with its failure, such as the answer that it did not expect: name and value."""
    if report.steps and not report.steps_left_out:
        for name, value in report.steps[-1].fields:
            if name not in _IN_EVERY_VERDICT:
                yield name, shorten(value, MAX_DETAIL_CHARACTERS)


def _prose(text: str, mark: str) -> Text:
    """Return a text in which backticks mark commands and settings; they get a style, and `mark` around them."""
    prose = Text()
    for number, part in enumerate(_printable(text).split("`")):
        prose.append(f"{mark}{part}{mark}" if number % 2 else part, _CODE if number % 2 else "")
    return prose


def _printable(text: str) -> str:
    """Return text with escapes for control characters, which a terminal would obey, and bytes that are not UTF-8."""
    if text.isprintable():
        return text
    return "".join([one if one.isprintable() else repr(one)[1:-1] for one in text])
