"""Test the pages of modules and reasons."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from probe_exporter.prober.failure import Reason
from probe_exporter.web.module_pages import module_name
from tests.exporters import Server
from tests.http_client import ask
from tests.waiting import wait_until
from tests.web.pages import HOSTILE, Page, exporter_at_root_and_prefix, get, page

CONFIG = """
modules:
  http_2xx: {prober: http}
  dns: {prober: dns, dns: {query_name: example.org}}
  free:
    prober: actor
    timeout: 30s
    description: Does what `target` says.
    params: {host: {pattern: "[a-z]+", max_length: 7}, other: {pattern: ".*", default: "<b>"}}
    actor: {host: "${param:host}${param:other}", password: hunter2}
  a/b: {prober: actor}
  "<script>alert('x')</script>\\"&": {prober: actor, description: "<script>alert('x')</script>\\"&"}
"""


exporter = exporter_at_root_and_prefix(CONFIG)


def module(exporter: tuple[Server, str], name: str, status: int = 200) -> Page:
    return page(get(exporter, f"modules/{quote(name, safe='')}"), status)


def test_list_has_every_module(exporter: tuple[Server, str]) -> None:
    found = page(get(exporter, "modules"))
    assert [link for link in found.links if link.startswith("modules/")] == [
        f"modules/{quote(name, safe='')}" for name in sorted([HOSTILE, "a/b", "dns", "free", "http_2xx"])
    ]
    assert "Sends one query to a DNS server" in found.text
    assert "host, other" in found.text


def test_list_can_be_of_one_prober(exporter: tuple[Server, str]) -> None:
    found = page(get(exporter, "modules?prober=http"))
    assert [link for link in found.links if link.startswith("modules/")] == ["modules/http_2xx"]


def test_page_of_a_module_has_each_part(exporter: tuple[Server, str]) -> None:
    found = module(exporter, "free")
    assert "Does what target says." in found.text
    assert "blackbox.yml:5:3" in found.text
    assert "password: <secret>" in found.text
    assert "max_length: 7" in found.text
    assert "none: a request must have it" in found.text
    assert "How many words the target has." in found.text
    assert "Why the probe failed and in which phase; absent on success." in found.text
    assert "scrape_timeout: 31s" in found.text
    assert "--param host=VALUE --param 'other=<b>' free example.org" in found.text
    assert "../reasons#actor_tired" in found.links


def test_page_of_a_module_has_its_recent_results(exporter: tuple[Server, str]) -> None:
    server, prefix = exporter
    ask(server.port, f"{prefix}probe?module=a/b&target=fail")
    wait_until(lambda: any(link.startswith("../history?id=") for link in module(exporter, "a/b").links))
    assert "../reasons#target_invalid" in module(exporter, "a/b").links


@pytest.mark.parametrize("name", ["a/b", HOSTILE, "http_2xx"])
def test_links_of_a_module_s_page_lead_to_pages(exporter: tuple[Server, str], name: str) -> None:
    found = module(exporter, name)
    for link in dict.fromkeys(found.links):
        path = link.partition("#")[0]
        if path:
            assert (
                get(exporter, path.removeprefix("../") if path.startswith("../") else f"modules/{path}").status == 200
            )


def test_unknown_module_is_not_found(exporter: tuple[Server, str]) -> None:
    assert "did you mean `free`?" in module(exporter, "fre", 404).text
    assert get(exporter, "modules/free/more").status == 404
    assert get(exporter, "modules/").status == 404


def test_reasons_have_anchors_meanings_and_advice(exporter: tuple[Server, str]) -> None:
    found = page(get(exporter, "reasons"))
    assert {reason.value for reason in Reason} <= {*found.ids}
    assert "actor_tired" in found.ids
    assert "Nothing listens on the port, or a firewall rejects the connection." in found.text
    assert "ss -ltun" in found.text


@pytest.mark.parametrize("name", ["x", "a/b", HOSTILE, "\udcff", "%41", "a?b#c"])
def test_name_in_the_path_is_decoded_once(name: str) -> None:
    path = f"/some/where/modules/{quote(name, safe='', errors='surrogateescape')}"
    assert module_name(f"{path}?query=/x/y") == name
