"""Rules that every test keeps, so that none fails because the machine is slow: see CONTRIBUTING.md.

They are checked by looking at the syntax trees of all files below tests/. The checks are heuristics: they find what was
wrong before, and no more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))

MAX_SLEEP_SECONDS = 0.2
"""The longest interval at which a test may look again. A longer sleep guesses how long something takes."""

FOR_EVER_SECONDS = 5.0
"""A coroutine that sleeps for so long stands for one that hangs: the test cancels it."""

MIN_TIMEOUT_SECONDS = 10.0
"""The shortest end of a wait for something that shall happen."""

MIN_BOUND_SECONDS = 20.0
"""A duration may be held against a bound from here on: it tells what waits for a timeout from what does not wait."""

WALL_CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns"}
SIMULATED = re.compile(r"^clock$|usefixtures\(.*'(clock|time_of_day)'")
"""The fixtures that replace the clock of the event loop."""

CPU_NAME = re.compile(r"cpu_seconds|process_time|thread_time|million_additions|TURN_MILLIONS|(^|_)cost(_|$)")
"""Names of functions and variables that stand for CPU time."""

DURATION_NAME = re.compile(r"(^|_)(elapsed|took|duration|waited)$")

ALLOWED: dict[str, str] = {
    "prober/test_run.py:test_phase_measures_seconds: judgements_of_time": "the phase has the inner one in it",
    "servers/_grpc_server.py:check: sleeps": "a server that is slower than the probe's timeout; its tests wait for it",
    "test_runner.py:act: short_waits": "a timeout that the test wants to end",
    "test_runner.py:both: sleeps": "what blocks the event loop is the subject",
    "test_testing.py:probe: sleeps": "a prober that blocks the event loop is the subject",
    "test_runner.py:test_runs_end_each_at_their_own_timeout: judgements_of_time": "a simulated clock",
}
"""Findings that stay, as ``file:function: rule``, each with its reason."""

Finding = tuple[int, str]
Rule = Callable[[ast.Module], Iterator[Finding]]


def without_simulated_time(tree: ast.Module) -> ast.Module:
    """Return a file without the functions whose clock is simulated: the speed of the machine does not matter there."""

    class Remove(ast.NodeTransformer):
        def visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST | None:
            fixtures = {argument.arg for argument in node.args.args} | {ast.unparse(one) for one in node.decorator_list}
            return None if any(SIMULATED.search(one) for one in fixtures) else self.generic_visit(node)

        visit_FunctionDef = visit_AsyncFunctionDef = visit_function  # noqa: N815  # names of ast

    marks = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    if any(mark.startswith("pytestmark") and SIMULATED.search(mark) for mark in marks):
        return ast.Module([], [])
    changed = Remove().visit(tree)
    assert isinstance(changed, ast.Module)
    return changed


def sleeps(tree: ast.Module) -> Iterator[Finding]:
    """Find sleeps that are longer than the interval of a poll."""
    constants = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in {"time.sleep", "asyncio.sleep"} and node.args:
            seconds = _number(node.args[0], constants)
            hangs = _dotted(node.func) == "asyncio.sleep" and seconds is not None and seconds >= FOR_EVER_SECONDS
            if seconds is not None and seconds > MAX_SLEEP_SECONDS and not hangs:
                yield (
                    node.lineno,
                    f"sleeps for {seconds} s: wait for an event, or look again every {MAX_SLEEP_SECONDS} s",
                )


def judgements_of_time(tree: ast.Module) -> Iterator[Finding]:
    """Find assertions that a difference of the wall clock is below a bound."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            durations = _durations(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Assert):
                    yield from ((node.lineno, f"judges a duration: {found}") for found in _bounded(node, durations))


def short_waits(tree: ast.Module) -> Iterator[Finding]:
    """Find waits that end too early on a slow machine, but for those that handle or expect TimeoutError."""
    constants = _constants(tree)
    expected = {id(inner) for node in ast.walk(tree) if _expects_timeout(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in expected:
            position = {"asyncio.timeout": 0, "asyncio.wait_for": 1}.get(_dotted(node.func))
            given = None if position is None else (node.args[position:] or [k.value for k in node.keywords])
            seconds = _number(given[0], constants) if given else None
            if seconds is not None and seconds < MIN_TIMEOUT_SECONDS:
                yield (
                    node.lineno,
                    f"ends a wait after {seconds} s: give a slow machine {MIN_TIMEOUT_SECONDS:.0f} s or more",
                )


def deadlines(tree: ast.Module) -> Iterator[Finding]:
    """Find deadlines that are given to hypothesis."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "deadline" and not _is_none(node.value):
            yield node.value.lineno, "hypothesis gets a deadline: only None is independent of the machine"


def judgements_of_cpu_time(tree: ast.Module) -> Iterator[Finding]:
    """Find assertions that compare CPU time. `tests.cost` runs a test again if it was too expensive."""
    for function in tree.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            known = _cpu_times(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Assert) and any(
                    isinstance(one, ast.Compare) and _is_ordering(one) and _mentions_cpu_time(one, known)
                    for one in ast.walk(node.test)
                ):
                    yield node.lineno, "asserts on CPU time: call expect_cheaper"


RULES: tuple[Rule, ...] = (sleeps, judgements_of_time, judgements_of_cpu_time, short_waits)


@pytest.mark.parametrize("name", FILES)
def test_file_does_not_depend_on_the_speed_of_the_machine(name: str) -> None:
    tree = without_simulated_time(ast.parse((TESTS / name).read_text(encoding="utf-8")))
    rules = [*RULES, deadlines] if "hypothesis" in _imports(tree) else RULES
    found = {
        f"{name}:{_function(tree, line)}: {rule.__name__}": f"{name}:{line}: {finding}"
        for rule in rules
        for line, finding in rule(tree)
    }
    assert not [text for key, text in found.items() if key not in ALLOWED]


def test_hypothesis_has_no_deadline() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "import asyncio\nLONG = 0.5\nasync def f():\n    await asyncio.sleep(LONG)"),
        (
            judgements_of_time,
            "def f():\n    start = time.monotonic()\n    g()\n    assert time.monotonic() - start < 1",
        ),
        (
            judgements_of_time,
            "def f():\n    a = time.perf_counter()\n    b = time.perf_counter() - a\n    assert b <= 1",
        ),
        (judgements_of_time, "def f():\n    a = loop.time()\n    assert 0.1 < loop.time() - a < 1"),
        (judgements_of_time, "def f(took):\n    assert 1 > took"),
        (judgements_of_time, "def f(x):\n    assert x.elapsed < 0.4"),
        (judgements_of_cpu_time, "def f():\n    assert cpu_seconds(g) < 2 * cpu_seconds(h)"),
        (judgements_of_cpu_time, "def f():\n    a = time.process_time()\n    assert time.process_time() - a < b"),
        (judgements_of_cpu_time, "def f():\n    a = []\n    a.append(cpu_seconds(g))\n    assert max(a) < 1"),
        (judgements_of_cpu_time, "def f():\n    with turns() as taken:\n        pass\n    assert max(taken) < 1"),
        (judgements_of_cpu_time, "def f():\n    a[b] += cpu_seconds(g)\n    assert 1 > a['who']"),
        (short_waits, "async def f():\n    async with asyncio.timeout(1):\n        await g()"),
        (short_waits, "async def f():\n    await asyncio.wait_for(g(), timeout=0.5)"),
        (deadlines, "@settings(deadline=500)\ndef f(): pass"),
    ],
)
def test_rule_finds_a_violation(rule: Rule, source: str) -> None:
    assert len(list(rule(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (
            sleeps,
            "import asyncio\nasync def f(seconds):\n    await asyncio.sleep(0.02)\n    await asyncio.sleep(seconds)",
        ),
        (judgements_of_time, "def f():\n    a = time.process_time()\n    assert time.process_time() - a < calibrated"),
        (
            judgements_of_cpu_time,
            "def f():\n    expect_cheaper(cpu_seconds(g), 2 * cpu_seconds(h), 'g')\n    assert a < 1",
        ),
        (judgements_of_cpu_time, "def f():\n    a = values['process_cpu_seconds_total']\n    assert a == 1"),
        (judgements_of_time, "def f():\n    a = time.monotonic()\n    assert time.monotonic() - a >= 0.2"),
        (judgements_of_time, "def f():\n    before = time.time()\n    assert before <= g() <= time.time()"),
        (judgements_of_time, "def f():\n    assert turns < 10"),
        (judgements_of_time, "def f():\n    assert result.duration < 20"),
        (
            judgements_of_time,
            "def f():\n    took = time.time() - g()\n    assert x.duration <= took",
        ),
        (judgements_of_time, "def f(clock):\n    assert 8 <= result.duration < 9"),
        (judgements_of_time, "@pytest.mark.usefixtures('clock')\nasync def f():\n    assert result.duration < 9"),
        (judgements_of_time, "def f():\n    a = simulated().time()\n    assert simulated().time() - a < 0.4"),
        (
            short_waits,
            "async def f():\n    with pytest.raises(TimeoutError):\n        await asyncio.wait_for(g(), 0.1)",
        ),
        (short_waits, "async def f():\n    await asyncio.wait_for(g(), 60)"),
        (deadlines, "@settings(deadline=None)\ndef f(): pass"),
    ],
)
def test_rule_accepts_what_is_independent_of_speed(rule: Rule, source: str) -> None:
    assert list(rule(without_simulated_time(ast.parse(source)))) == []


def test_allowed_findings_exist() -> None:
    found = set()
    for name in {key.partition(":")[0] for key in ALLOWED}:
        tree = without_simulated_time(ast.parse((TESTS / name).read_text(encoding="utf-8")))
        found |= {f"{name}:{_function(tree, line)}: {rule.__name__}" for rule in RULES for line, _ in rule(tree)}
    assert ALLOWED.keys() <= found


def _imports(tree: ast.Module) -> set[str]:
    """Return the modules that a file imports from."""
    return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def _dotted(node: ast.expr) -> str:
    """Return the dotted name of an expression, "" if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _constants(tree: ast.Module) -> dict[str, float]:
    """Return the numbers that are assigned to names at the top of a file."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _number(node.value, {})
            if value is not None:
                found[node.targets[0].id] = value
    return found


def _number(node: ast.expr, constants: dict[str, float]) -> float | None:
    """Return the value of a number or of a constant; None if it is not known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def _expects_timeout(node: ast.AST) -> bool:
    """Whether a block catches TimeoutError, as ``try`` or as ``with pytest.raises``."""
    if isinstance(node, ast.With | ast.AsyncWith):
        return any("TimeoutError" in ast.unparse(item) for item in node.items)
    return isinstance(node, ast.Try) and any(
        handler.type is not None and "TimeoutError" in ast.unparse(handler.type) for handler in node.handlers
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _reads_clock(node: ast.AST, instants: set[str]) -> bool:
    """Whether an expression is an instant of the wall clock."""
    if isinstance(node, ast.Call):
        return _dotted(node.func).rpartition(".")[2] in WALL_CLOCKS and "simulated" not in ast.unparse(node)
    return isinstance(node, ast.Name) and node.id in instants


def _durations(function: ast.AST) -> set[str]:
    """Return the names in a function that hold differences of the wall clock."""
    instants: set[str] = set()
    durations: set[str] = set()
    assignments = [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.NamedExpr)]
    for node in assignments:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if any(_reads_clock(value, instants) for value in values):
            instants |= names
        if _is_duration(node.value, instants, durations):
            durations |= names
    return durations | {f"instant {name}" for name in instants}


def _is_duration(node: ast.AST, instants: set[str], durations: set[str]) -> bool:
    """Whether an expression has a difference of the wall clock in it. The name of a function that is called is none."""
    called = {id(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
            sides = inner.left, inner.right
            constant = any(isinstance(side, ast.Constant) for side in sides)
            if not constant and any(_reads_clock(side, instants) for side in sides):
                return True
        name = inner.id if isinstance(inner, ast.Name) else inner.attr if isinstance(inner, ast.Attribute) else ""
        if id(inner) not in called and (name in durations or DURATION_NAME.search(name)):
            return True
    return False


def _is_ordering(node: ast.Compare) -> bool:
    return any(isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for operator in node.ops)


def _cpu_times(function: ast.AST) -> set[str]:
    """Return the names in a function that hold CPU times, alone or in a collection."""
    known: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _mentions_cpu_time(node.value, known):
            known |= {_root(target) for target in node.targets}
        elif isinstance(node, ast.AugAssign | ast.NamedExpr) and _mentions_cpu_time(node.value, known):
            known.add(_root(node.target))
        elif isinstance(node, ast.withitem) and ast.unparse(node.context_expr) == "turns()" and node.optional_vars:
            known.add(_root(node.optional_vars))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            known |= {_root(node.func.value) for one in node.args if _mentions_cpu_time(one, known)}
    return known - {""}


def _mentions_cpu_time(node: ast.AST, known: set[str]) -> bool:
    """Whether an expression has a CPU time in it: a name of `known`, or one that sounds like it."""
    names = {one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in ast.walk(node)}
    return bool(names & known) or any(map(CPU_NAME.search, names))


def _root(target: ast.expr) -> str:
    """Return the variable that an assignment changes: ``a`` for ``a``, ``a[b]`` and ``a.b``; "" for others."""
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def _bounded(node: ast.Assert, known: set[str]) -> Iterator[str]:
    """Return the comparisons of an assertion that have a duration on the smaller side."""
    instants = {name.removeprefix("instant ") for name in known if name.startswith("instant ")}
    for compare in ast.walk(node.test):
        if isinstance(compare, ast.Compare):
            sides = [compare.left, *compare.comparators]
            for left, operator, right in zip(sides, compare.ops, sides[1:], strict=False):
                upper = isinstance(operator, ast.Lt | ast.LtE) and _is_duration(left, instants, known)
                lower = isinstance(operator, ast.Gt | ast.GtE) and _is_duration(right, instants, known)
                if (upper or lower) and not _is_fair(right if upper else left, instants, known):
                    yield ast.unparse(compare)


def _is_fair(bound: ast.expr, instants: set[str], durations: set[str]) -> bool:
    """Whether a bound holds on a slow machine: it is very long, or a duration that has the other one in it."""
    seconds = _number(bound, {})
    if seconds is not None:
        return seconds >= MIN_BOUND_SECONDS
    return _is_duration(bound, instants, durations) and not any(isinstance(node, ast.Mult) for node in ast.walk(bound))


def _function(tree: ast.Module, line: int) -> str:
    """Return the name of the innermost function that has a line."""
    name = ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            name = node.name
    return name
