"""Test which certificate authorities of the system are trusted, also in files with unusual names."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import crypto

from probe_exporter.prober.failure import OutOfFiles
from probe_exporter.tls import context, loading, system_authorities
from probe_exporter.tls.settings import TLSSettings
from tests.targets import Pki

Trusts = Callable[[str], bool]
LEAVES = ("by_root", "leaf", "self_signed")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of certificates."""
    return Pki(tmp_path_factory.mktemp("pki")).directory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that takes the place of `/etc/ssl/certs`, with an empty bundle."""
    for name in (system_authorities.FILE_VARIABLE, system_authorities.DIRECTORIES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "bundle.crt").write_text("")
    monkeypatch.setattr(system_authorities, "DIRECTORIES", (str(tmp_path / "none"), str(directory)))
    monkeypatch.setattr(system_authorities, "BUNDLES", (str(directory / "bundle.crt"),))
    return directory


@pytest.fixture
def trusts(pki: Path, system: Path) -> Trusts:
    """Return a function that tells whether a new context trusts a certificate, sent with its intermediate."""

    def trusts(name: str) -> bool:
        made, _ = context.make_context(TLSSettings(), "TLS12", "TLS13")
        store = made.get_cert_store()
        assert store is not None
        leaf, *chain = x509.load_pem_x509_certificates((pki / f"{name}.pem").read_bytes())
        sent = [crypto.X509.from_cryptography(one) for one in chain]
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), sent).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True

    return trusts


def test_unknown_authority_is_not_trusted(trusts: Trusts) -> None:
    assert [trusts(name) for name in LEAVES] == [False, False, False]


@pytest.mark.parametrize("name", ["my-ca.crt", "README", "0123abcd", "0123abcd.0", ".hidden", "latin1-\udcff.pem"])
def test_file_of_the_directory_is_trusted_without_a_link(trusts: Trusts, system: Path, pki: Path, name: str) -> None:
    shutil.copy(pki / "root.pem", system / name)
    (system / "garbage.pem").write_text("no certificate")
    (system / "nowhere.pem").symlink_to("none")
    (system / "more").mkdir()
    shutil.copy(pki / "self_signed.pem", system / "more")
    assert [trusts(name) for name in LEAVES] == [True, True, False]


def test_link_into_a_volume_is_followed(trusts: Trusts, system: Path, pki: Path) -> None:
    """Kubernetes mounts each key of a ConfigMap as a link to a file in a directory beside it."""
    (system / "..data").mkdir()
    shutil.copy(pki / "root.pem", system / "..data" / "ca.crt")
    (system / "ca.crt").symlink_to("..data/ca.crt")
    assert trusts("leaf")


def test_linked_file_is_left_to_openssl(trusts: Trusts, system: Path, pki: Path) -> None:
    shutil.copy(pki / "root.pem", system / "root.pem")
    root = crypto.load_certificate(crypto.FILETYPE_PEM, (pki / "root.pem").read_bytes())
    (system / f"{root.subject_name_hash():08x}.0").symlink_to("root.pem")
    assert [*system_authorities.missed_by_openssl()] == []
    assert trusts("leaf")
    shutil.copy(pki / "root.pem", system / "12345678.x")
    assert [*system_authorities.missed_by_openssl()] == [str(system / "12345678.x")]


def test_named_directories_replace_those_of_the_system(
    trusts: Trusts, system: Path, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pki / "self_signed.pem", system / "self_signed.crt")
    for name in ("one", "two\udcff"):
        (tmp_path / name).mkdir()
    shutil.copy(pki / "root.pem", tmp_path / "two\udcff" / "ca.crt")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/one:{tmp_path}/none:{tmp_path}/two\udcff")
    assert [trusts(name) for name in LEAVES] == [True, True, False]
    shutil.copy(pki / "self_signed.pem", system / "bundle.crt")  # which still counts
    assert trusts("self_signed")


def test_named_file_replaces_the_bundle_and_not_the_directories(
    trusts: Trusts, system: Path, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pki / "self_signed.pem", system / "self_signed.crt")
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "root.pem"))
    assert [trusts(name) for name in LEAVES] == [True, True, True]
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "none.pem"))
    assert [trusts(name) for name in LEAVES] == [False, False, True]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_empty_variable_counts_as_unset(
    trusts: Trusts, system: Path, pki: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pki / "root.pem", system / "bundle.crt")
    monkeypatch.setenv(variable, "")
    assert trusts("leaf")


@pytest.mark.parametrize("anchor", ["intermediate", "leaf"])
def test_authority_need_not_be_a_root(trusts: Trusts, pki: Path, anchor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / f"{anchor}.pem"))
    assert [trusts(name) for name in LEAVES] == [False, True, False]


def test_unreadable_directory_has_no_files(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    assert [*system_authorities.missed_by_openssl()] == []


@pytest.mark.parametrize(("where", "what"), [(os, "scandir"), (Path, "open")], ids=["directory", "bundle"])
async def test_context_is_made_again_after_file_descriptors_ran_out(
    system: Path, where: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them OpenSSL reads no authorities, and says nothing."""

    def exhausted(*arguments: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    await loading.load()
    context.forget_contexts()
    with monkeypatch.context() as patched:
        patched.setattr(where, what, exhausted)
        with pytest.raises(OutOfFiles, match="no file descriptor left"):
            await loading.client_context(TLSSettings())
    assert await loading.client_context(TLSSettings()) is await loading.client_context(TLSSettings())
    context.forget_contexts()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_path_that_cannot_be_looked_at_does_not_exist(
    trusts: Trusts, system: Path, pki: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a path in a directory that may not be searched, which is allowed to the root of these tests."""
    shutil.copy(pki / "root.pem", system / "ca.crt")
    shutil.copy(pki / "self_signed.pem", system / "bundle.crt")
    monkeypatch.setenv(variable, f"/{'name' * 100}")
    by_directory = variable == "SSL_CERT_FILE"
    assert [trusts(name) for name in LEAVES] == [by_directory, by_directory, True]


def test_bundle_removed_meanwhile_is_no_error(system: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(pki / "root.pem", system / "ca.crt")
    monkeypatch.setattr(system_authorities, "bundle", lambda: system / "none")
    assert [*system_authorities.missed_by_openssl()] == [str(system / "bundle.crt"), str(system / "ca.crt")]


def test_bundle_is_not_loaded_twice(system: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(pki / "root.pem", system / "bundle.crt")
    assert [*system_authorities.missed_by_openssl()] == []
    monkeypatch.setenv("SSL_CERT_FILE", str(system / "bundle.crt"))
    assert [*system_authorities.missed_by_openssl()] == []
