"""Tests of the connection that takes less work than aioquic's: it sends the same bytes, and fewer packets."""

from __future__ import annotations

import gc
import importlib.util
import ssl
import sys
import weakref
from types import ModuleType

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import AlertDecodeError, ClientHello, Epoch, Group
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_exporter.network.quic_connection import (
    ALL_GROUPS,
    USUAL_GROUPS,
    ClientConnection,
    PullBlock,
    push_client_hello,
)
from probe_exporter.tls import suites


@pytest.fixture(scope="module")
def unchanged() -> ModuleType:
    """Return aioquic's TLS with its own functions."""
    spec = importlib.util.find_spec("aioquic.tls")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"unchanged.{spec.name}"] = module
    spec.loader.exec_module(module)
    return module


def configuration(server_name: str | None = "www.example.test") -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=["h3"],
        idle_timeout=600.0,
        server_name=server_name,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=ssl.CERT_NONE,
    )


def connecting(groups: tuple[Group, ...] = USUAL_GROUPS) -> ClientConnection:
    client = ClientConnection(configuration(), groups)
    client.connect("peer", now=0.0)
    return client


def test_all_groups_are_those_of_tls_over_tcp() -> None:
    names = {"X25519": "X25519", "P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}
    assert [group.name for group in ALL_GROUPS] == [names[group] for group in suites.GROUPS]


TEXTS = st.text("abc.-", max_size=300)
NUMBERS = st.lists(st.integers(0, 0xFFFF), max_size=20)


@given(
    st.builds(
        ClientHello,
        random=st.binary(min_size=32, max_size=32),
        legacy_session_id=st.binary(max_size=32),
        cipher_suites=NUMBERS,
        legacy_compression_methods=st.lists(st.integers(0, 255), max_size=3),
        alpn_protocols=st.none() | st.lists(st.text("abc", max_size=255), max_size=3),
        key_share=st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=200)), max_size=4),
        server_name=st.none() | TEXTS,
        signature_algorithms=NUMBERS,
        supported_groups=NUMBERS,
        supported_versions=NUMBERS,
        other_extensions=st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=100)), max_size=3),
    )
)
@settings(deadline=None)
def test_client_hello_has_the_bytes_that_aioquic_writes(unchanged: ModuleType, hello: ClientHello) -> None:
    ours, theirs = Buffer(capacity=16384), Buffer(capacity=16384)
    push_client_hello(ours, hello)
    unchanged.push_client_hello(theirs, hello)
    assert ours.data == theirs.data


@pytest.mark.parametrize("taken", range(5))
def test_block_is_read_as_aioquic_reads_it(unchanged: ModuleType, taken: int) -> None:
    results: list[object] = []
    for pull in (PullBlock, unchanged.pull_block):
        buffer = Buffer(data=b"\0\3abcd")
        try:
            with pull(buffer, 2) as length:
                results.append((length, buffer.pull_bytes(taken)))
        except (AlertDecodeError, unchanged.AlertDecodeError) as error:
            results.append(str(error))
    assert results[: len(results) // 2] == results[len(results) // 2 :]
    assert len(results) == (2 if taken == 3 else 4)


def test_block_passes_an_error_on() -> None:
    with pytest.raises(KeyError), PullBlock(Buffer(data=b"\3abc"), 1):
        raise KeyError


def test_transport_parameters_are_those_that_aioquic_encodes() -> None:
    for _ in range(2):
        client = connecting()
        assert client._serialize_transport_parameters() == QuicConnection._serialize_transport_parameters(client)


@pytest.mark.parametrize("groups", [USUAL_GROUPS, ALL_GROUPS])
def test_connection_offers_a_key_share_of_each_group(unchanged: ModuleType, groups: tuple[Group, ...]) -> None:
    client = connecting(groups)
    sent = client._crypto_streams[Epoch.INITIAL].sender._buffer
    hello = unchanged.pull_client_hello(Buffer(data=bytes(sent)))
    assert hello.supported_groups == [*groups]
    assert [group for group, _ in hello.key_share] == [*groups]


def test_discarded_connection_is_freed_without_the_garbage_collector() -> None:
    client = connecting()
    client.datagrams_to_send(now=0.0)
    gone = weakref.ref(client)
    gc.disable()
    try:
        client.discard()
        del client
        assert gone() is None
    finally:
        gc.enable()
