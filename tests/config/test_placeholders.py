"""Module parameters: where placeholders may stand, which values requests may give, values stay plain text."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config import document, dump, loading, placeholders, schema
from probe_exporter.config.module import Config, ConfigError, Module
from probe_exporter.config.placeholders import ParameterTemplate, parse
from probe_exporter.plugins import loader
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from tests import shared
from tests.cost import costs_at_most

PROBERS = loader.load_probers([])

NASTY = ["'", '"', "\n", ": ", "- a", "{x}", "#", "\\", "~", "null", "5", "yes", "!!int 5", "*a", "&a", "%", "\x00",
         "é", "${param:b}", "$${param:b}", "${HOME}", "$1", "<<"]  # fmt: skip
VALUES = st.text(max_size=20) | st.sampled_from(NASTY) | st.lists(st.sampled_from(NASTY)).map("".join)


def load(path: Path, text: str, **options: Any) -> Config:
    """Load a configuration from `text`."""
    file = path / "blackbox.yml"
    file.write_text(text)
    return loading.load([file], PROBERS, **options)


def module(path: Path, params: str, http: str) -> Module:
    """Return an http module with these parameters."""
    return load(path, f"modules: {{m: {{prober: http, params: {{{params}}}, http: {{{http}}}}}}}").modules["m"]


def problems(path: Path, text: str) -> list[str]:
    """Return the lines of the error for `text`, without the directory."""
    with pytest.raises(ConfigError) as refused:
        load(path, text)
    return str(refused.value).replace(f"{path}/", "").splitlines()


def settings(module: Module, **request: str) -> Any:
    """Return the module's settings for a request with these parameters."""
    return module.given(request).settings


def test_module_keeps_what_the_request_gave(tmp_path: Path) -> None:
    params = 'a: {pattern: "[a-z]+"}, b: {pattern: ".*", default: d}'
    plain = module(tmp_path, params, 'headers: {X-A: "${param:a}"}')
    assert plain.request == {}
    assert plain.prepared({"a": "x", "other": "y"}).request == {"a": "x", "b": "d"}
    assert plain.prepared({"a": "x", "b": "z", "hostname": "h"}).request == {"a": "x", "b": "z", "hostname": "h"}


# --- templates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("${param:a}", ("", "a", "")),
        ("x${param:a}y${param:b}", ("x", "a", "y", "b", "")),
        ("${param:a}${param:a}", ("", "a", "", "a", "")),
        ("$${param:a}", ("${param:a}",)),
        ("$$${param:a}", ("$${param:a}",)),
        ("a$${param:a}b${param:c}", ("a${param:a}b", "c", "")),
        ("${param:}", ("", "", "")),
        ("${param:a", ("${param:a",)),
        ("${param:${param:a}}", ("${param:", "a", "}")),
        ("$1 ${NAME} $$", ("$1 ${NAME} $$",)),
    ],
)
def test_placeholders_are_parsed_from_text(text: str, parts: tuple[str, ...]) -> None:
    template = parse(text, str)
    assert template.parts == parts
    assert template.source == text


PLAIN = st.recursive(
    st.text(max_size=10)
    | st.integers()
    | st.none()
    | st.booleans()
    | st.lists(st.sampled_from(["${param:a}", "${param:b}", "x", "$", "$$"]), min_size=1).map(
        lambda parts: parse("".join(parts), str)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def leaves(plain: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[tuple[Any, ...], Any]]:
    """Yield each value that is not a container or is an empty one, with its path."""
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    if not inside:
        yield path, plain
    for key, item in inside:
        yield from leaves(item, (*path, key))


@given(plain=PLAIN, a=VALUES, b=VALUES)
def test_filling_changes_only_strings_with_placeholders(plain: Any, a: str, b: str) -> None:
    before, after = dict(leaves(plain)), dict(leaves(placeholders.fill(plain, {"a": a, "b": b})))
    assert before.keys() == after.keys()
    for path, value in before.items():
        if isinstance(value, ParameterTemplate):
            texts, names = value.parts[::2], value.parts[1::2]
            values = [a if name == "a" else b for name in names]
            assert after[path] == texts[0] + "".join(v + t for v, t in zip(values, texts[1:], strict=True))
        else:
            assert after[path] == value
            assert type(after[path]) is type(value)


# --- what a request may say --------------------------------------------------------------------------------

EVERYWHERE = """
  method: 'M${param:a}', body: 'b${param:a}', headers: {X: 'x${param:a}', Y: y},
  http_headers: {Z: {values: ['v${param:a}', w], secrets: ['s${param:a}']}},
  basic_auth: {username: '${param:a}', password: 'p${param:a}'},
  fail_if_header_matches: [{header: h, regexp: r, allow_missing: yes}, {header: 'h${param:a}', regexp: 'r'}]
"""
ANYTHING = "a: {pattern: '(?s).*', max_length: 10000, default: d}"


@pytest.fixture(scope="module")
def parameter_everywhere(tmp_path_factory: pytest.TempPathFactory) -> Module:
    """Return a module with the parameter ``a`` in many of its values."""
    return module(tmp_path_factory.mktemp("everywhere"), ANYTHING, EVERYWHERE)


@given(value=VALUES)
def test_parameter_value_is_inserted_verbatim_in_every_kind_of_setting(
    parameter_everywhere: Module, value: str
) -> None:
    block, default = settings(parameter_everywhere, a=value), settings(parameter_everywhere)
    assert (block.method, block.body, block.headers) == (f"M{value}", f"b{value}", {"X": f"x{value}", "Y": "y"})
    assert block.http_headers["Z"].values == (f"v{value}", "w")
    assert [secret.reveal() for secret in block.http_headers["Z"].secrets] == [f"s{value}"]
    assert (block.basic_auth.username, block.basic_auth.password.reveal()) == (value, f"p{value}")
    assert [matcher.header for matcher in block.fail_if_header_matches] == ["h", f"h{value}"]
    touched = {"method", "body", "headers", "http_headers", "basic_auth", "fail_if_header_matches"}
    for key in type(block).model_fields.keys() - touched:
        assert getattr(block, key) == getattr(default, key)


def test_parameter_values_are_not_expanded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are inserted verbatim, and what the environment inserts is no placeholder."""
    monkeypatch.setenv("PROBE_X", "${param:b}")
    text = (
        "modules: {m: {prober: http, params: {a: {pattern: .*}, b: {pattern: .*, default: B}}, "
        "http: {body: '${PROBE_X} ${param:a} ${param:b} $${PROBE_X} $${param:a}'}}}"
    )
    made = load(tmp_path, text, expand_env=True).modules["m"]
    for value in ("${param:b}", "${PROBE_X}", "$${param:b}", "${param:a}"):
        assert settings(made, a=value).body == f"${{param:b}} {value} B ${{PROBE_X}} ${{param:a}}"


def test_parameter_may_stand_for_a_number_boolean_or_size(tmp_path: Path) -> None:
    made = module(
        tmp_path,
        "n: {pattern: .*, default: '204'}, b: {pattern: .*, default: 'no'}, s: {pattern: .*, default: 1MB}",
        "valid_status_codes: [200, '${param:n}'], fail_if_ssl: '${param:b}', body_size_limit: '${param:s}'",
    )
    assert settings(made).valid_status_codes == (200, 204)
    block = settings(made, n="404", b="yes", s="2KB")
    assert (block.valid_status_codes, block.fail_if_ssl, block.body_size_limit) == ((200, 404), True, 2048)
    for name, value, key in [
        ("n", "", "valid_status_codes[1]"),
        ("n", "[1,2]", "valid_status_codes[1]"),
        ("b", "perhaps", "fail_if_ssl"),
        ("s", "many", "body_size_limit"),
    ]:
        with pytest.raises(ValueError, match=r"can't take these parameters") as refused:
            made.given({name: value})
        assert f"http.{key}: " in str(refused.value)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, 'Module "m" needs the parameter "must", which matches [a-z]+'),
        ({"must": ""}, 'The parameter "must" of module "m" does not match [a-z]+'),
        ({"must": "a1"}, 'The parameter "must" of module "m" does not match [a-z]+'),
        ({"must": "a\n"}, 'The parameter "must" of module "m" does not match [a-z]+'),
        ({"must": "1a"}, 'The parameter "must" of module "m" does not match [a-z]+'),
        ({"must": "a", "may": "x" * 9}, 'The parameter "may" of module "m" is longer than 8 characters'),
        ({"must": "a", "may": "b"}, 'The parameter "may" of module "m" does not match a|x*'),
        ({"must": "a", "may": "ax"}, 'The parameter "may" of module "m" does not match a|x*'),
    ],
)
def test_illegal_parameter_value_is_refused_with_a_message(
    tmp_path: Path, request_: dict[str, str], sentence: str
) -> None:
    """The whole value must match, even if the pattern has alternatives."""
    made = module(
        tmp_path,
        "must: {pattern: '[a-z]+'}, may: {pattern: 'a|x*', max_length: 8, default: xx}",
        "body: '${param:must}${param:may}'",
    )
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the whole sentence is compared below
        made.given(request_)
    assert str(refused.value) == sentence


def test_parameter_value_is_validated_by_the_setting(tmp_path: Path) -> None:
    """The message of the setting then contains no secret."""
    made = module(tmp_path, ANYTHING, "proxy_url: 'http://u:hunter2@${param:a}/'")
    assert settings(made, a="proxy.example:1").proxy_url == "http://u:hunter2@proxy.example:1/"
    for value in ("a\r\nX: y", "a b", "[", "%zz"):
        with pytest.raises(ValueError, match=r"http\.proxy_url: not a URL") as refused:
            made.given({"a": value})
        assert "hunter2" not in str(refused.value)


def test_parameter_value_that_breaks_a_regexp_is_refused(tmp_path: Path) -> None:
    made = module(tmp_path, ANYTHING, "fail_if_body_not_matches_regexp: ['v=${param:a}']")
    assert settings(made, a="1.0").fail_if_body_not_matches_regexp[0].text == "v=1.0"
    with pytest.raises(ValueError, match=r"fail_if_body_not_matches_regexp\[0\]: not a regular expression"):
        made.given({"a": "("})


def test_same_parameter_values_give_the_same_module(tmp_path: Path) -> None:
    made = module(tmp_path, ANYTHING, "body: '${param:a}'")
    assert made.given({"a": "x"}) is made.given({"a": "x", "undeclared": "y"})
    assert made.given({"a": "d"}) is made.given({})
    assert made.given({"a": "y"}) is not made.given({"a": "x"})


def test_cache_of_filled_modules_is_bounded(tmp_path: Path) -> None:
    made = module(tmp_path, ANYTHING, "body: '${param:a}'")
    first = settings(made, a="0")
    for number in range(loading.MAX_FILLED_MODULES + 1):
        made.given({"a": str(number)})
    assert settings(made, a="0") is not first


def test_module_without_parameters_is_returned_unchanged(tmp_path: Path) -> None:
    made = load(tmp_path, "modules: {m: {prober: http}}").modules["m"]
    assert made.given({"a": "x"}) is made


# --- what loads, and what does not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("params: {a: {pattern: x, default: x}}, http: {body: '${param:b}'}", "http.body: ${param:b} is not declared"),
        ("params: {path: {pattern: x}}, http: {body: '${param:pth}'}", "`params`; did you mean `path`?"),
        (
            "params: {a: {pattern: x, default: x}}, timeout: '${param:a}'",
            "timeout: a parameter can only be used in the block of",
        ),
        (
            "params: {a: {pattern: x, default: '${param:a}'}}",
            "params.a.default: a parameter can only be used in the block of",
        ),
        ("params: {a: {pattern: x}}, http: {headers: {'X-${param:a}': y}}", "a parameter can't be a part of a key"),
        ("params: {target: {pattern: x}}", "params.target: `target` is a reserved name: requests use it"),
        ("params: {a-b: {pattern: x}}", "params.a-b: 'a-b' is no name of a parameter"),
        ("params: {a: {}}", "params.a.pattern: `pattern` is required"),
        ("params: {a: {pattern: '('}}", "params.a.pattern: not a regular expression (RE2)"),
        ("params: {a: {pattern: x, default: y}}", "params.a.default: the default does not match x"),
        ("params: {a: {pattern: x*, max_length: 2, default: xxx}}", "default: the default is longer than 2 characters"),
        ("params: {a: {pattern: x, max_length: 0}}", "params.a.max_length: expected 1 or more"),
        ("params: {a: {pattern: x, patern: x}}", "params.a.patern: unknown key `patern`; did you mean `pattern`?"),
        ("params: [a]", "params: expected a mapping of names to mappings, found a list"),
        ("params: {a: x}", "params.a: expected a mapping of settings, found a string"),
        ("params: {a: {pattern: .*}}, http: {body_size_limit: '${param:a}'}", "http.body_size_limit: '${param:a}' is"),
        ("params: {a: {pattern: .*, default: x}}, http: {fail_if_ssl: '${param:a}'}", "http.fail_if_ssl: expected"),
    ],
)
def test_parameter_errors_are_reported_at_load_with_their_place(tmp_path: Path, text: str, problem: str) -> None:
    (line,) = problems(tmp_path, f"modules:\n  m: {{prober: http, {text}}}\n")
    assert line.startswith("blackbox.yml:2:")
    assert int(line.split(":")[2]) > 3
    assert problem in line


@pytest.mark.parametrize("name", sorted(placeholders.RESERVED))
def test_reserved_name_can_not_be_a_parameter(tmp_path: Path, name: str) -> None:
    lines = problems(
        tmp_path,
        f"modules: {{m: {{prober: http, params: {{{name}: {{pattern: x}}}}, http: {{body: '${{param:{name}}}'}}}}}}",
    )
    (line,) = lines
    assert line.startswith(f"blackbox.yml:1:38: modules.m.params.{name}: `{name}` is a reserved name: requests use it")


def test_unused_parameter_is_a_warning(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, "modules: {m: {prober: http, params: {a: {pattern: x}}}}").warnings
    assert str(warning).endswith(
        "blackbox.yml:1:38: modules.m.params.a: the parameter has no effect: the module does not use ${param:a}"
    )


def test_placeholder_is_plain_text_in_a_module_without_params(tmp_path: Path) -> None:
    """A configuration for blackbox_exporter keeps its meaning; text that looks like a mistake is a warning."""
    text = "modules: {m: {prober: http, http: {body: '${param:a} $${param:b}', headers: {X: '$${param:c}'}}}}"
    loaded = load(tmp_path, text)
    block = settings(loaded.modules["m"], a="x")
    assert (block.body, block.headers) == ("${param:a} $${param:b}", {"X": "$${param:c}"})
    (warning,) = loaded.warnings
    assert "modules.m.http.body: ${param:a} is plain text, as the module has no `params`" in str(warning)


def test_parameters_work_through_anchors_and_merges(tmp_path: Path) -> None:
    """Each module has its own parameters; the text between the placeholders is shared."""
    text = """
modules:
  a: &a
    prober: http
    params: &params {p: {pattern: .*, default: one}}
    http: &http {body: 'b ${param:p}'}
  b:
    <<: *a
    params: {p: {pattern: .*, default: two}}
  c: {prober: http, params: *params, http: {<<: *http, method: PUT}}
"""
    modules = load(tmp_path, text).modules
    assert [settings(modules[name]).body for name in "abc"] == ["b one", "b two", "b one"]
    assert settings(modules["b"], p="x").body == "b x"


def test_warnings_about_values_skip_what_requests_can_change(tmp_path: Path) -> None:
    text = "modules: {m: {prober: http, params: {a: {pattern: '[A-Z]+'}}, http: {method: '${param:a}'}}}"
    assert load(tmp_path, text, strict=True).modules


def test_other_files_have_no_placeholders() -> None:
    class File(Settings):
        text: Text = ""

    file = loading.validated(document.read(b"text: ${param:a}", "web.yml", File), File)
    assert file is not None
    assert file.text == "${param:a}"


def test_filled_modules_share_the_guard_of_their_module(tmp_path: Path) -> None:
    block = "targets: {deny: [127.0.0.1]}, params: {a: {pattern: x}}, http: {body: '${param:a}'}"
    text = f"modules: {{m: {{prober: http, {block}}}}}"
    made = load(tmp_path, text).modules["m"]
    assert made.network is not None
    assert made.given({"a": "x"}).network is made.network


def test_a_thousand_modules_with_parameters_load_at_bounded_cost(tmp_path: Path) -> None:
    """The cost grows with the number of modules and not with its square."""
    body = "prober: http, params: {a: {pattern: x, default: x}}, http: {body: '${param:a}', method: '${param:a}'}"
    text = "modules:\n" + "".join(f"  m{number}: {{{body}}}\n" for number in range(1000))
    with costs_at_most(150):
        assert len(load(tmp_path, text).modules) == 1000


def with_each_value_as_a_parameter() -> dict[str, Any]:
    """Return each module of the complete example once per value in its blocks, with that value as a parameter."""
    modules = {}
    for name, written in yaml.safe_load((shared.EXAMPLES / "full.yml").read_text())["modules"].items():
        for path, value in leaves(written):
            if len(path) < 2 or path[0] not in PROBERS or not isinstance(value, str | int | float):
                continue
            if "claims" in path and not isinstance(value, str):  # of any type, so a parameter there is text
                continue
            copied = copy.deepcopy(written)
            inside = functools.reduce(lambda block, key: block[key], path[:-1], copied)
            inside[path[-1]] = "${param:p}"
            default = str(value).lower() if isinstance(value, bool) else str(value)
            params = {"p": {"pattern": "(?s).*", "max_length": 65536, "default": default}}
            modules[f"{name} {path}"] = {**copied, "params": params}
    return modules


@shared.needed
def test_any_setting_may_be_a_parameter_and_any_value_is_accepted_or_refused(tmp_path: Path) -> None:
    """With defaults a module equals the original one; other values are accepted or refused, never an internal error."""
    example = load(tmp_path, (shared.EXAMPLES / "full.yml").read_text()).modules
    loaded = load(tmp_path, yaml.safe_dump({"modules": with_each_value_as_a_parameter()})).modules
    assert len(loaded) > 150
    for name, made in loaded.items():
        original = example[name.partition(" ")[0]]
        assert (made.given({}).settings, made.given({}).strays) == (original.settings, original.strays), name
        for value in NASTY:
            with suppress(ValueError):
                assert dump.module_to_yaml(made.given({"p": value}))


# --- what is shown -----------------------------------------------------------------------------------------


def test_dump_shows_placeholders_and_loads_again(tmp_path: Path) -> None:
    params = "a: {pattern: '.*', default: d}, b: {pattern: '[0-9]+', max_length: 3}"
    text = f"modules: {{m: {{prober: http, params: {{{params}}}, http: {{body: 'x ${{param:a}} ${{param:b}}'}}}}}}"
    printed = dump.to_yaml(load(tmp_path, text))
    module = yaml.safe_load(printed)["modules"]["m"]
    assert module["params"] == {
        "a": {"pattern": ".*", "max_length": 1024, "default": "d"},
        "b": {"pattern": "[0-9]+", "max_length": 3},
    }
    assert module["http"]["body"] == "x ${param:a} ${param:b}"
    assert dump.to_yaml(load(tmp_path, printed)) == printed


def test_dump_shows_defaults_where_placeholders_are_not_legal(tmp_path: Path) -> None:
    made = module(tmp_path, "n: {pattern: .*, default: '204'}", "valid_status_codes: ['${param:n}']")
    assert yaml.safe_load(dump.module_to_yaml(made))["http"]["valid_status_codes"] == [204]


def test_secrets_with_parameters_stay_masked(tmp_path: Path) -> None:
    made = module(
        tmp_path, ANYTHING, "basic_auth: {username: alice, password: 'hunter2${param:a}'}, body: '${param:a}'"
    )
    given = made.given({"a": "also-secret"})
    assert yaml.safe_load(dump.module_to_yaml(given))["http"]["basic_auth"]["password"] == "<secret>"
    for text in (dump.module_to_yaml(made), repr(made), repr(given), repr(made.fill)):
        assert "hunter2" not in text


def test_schema_describes_parameters() -> None:
    described = schema.json_schema(PROBERS)["$defs"]
    assert described["Module"]["properties"]["params"]["description"]
    assert described["Parameter"]["required"] == ["pattern"]
