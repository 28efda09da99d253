"""DER taken apart and put together, compared with what cryptography writes."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from probe_exporter.tls import der
from tests.targets import Pki


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20])
def test_element_has_the_content_that_it_was_made_of(size: int) -> None:
    made = der.element(der.SEQUENCE, bytes(size))
    assert der.content(made) == bytes(size)
    assert list(der.elements(made + made)) == [made, made]


@pytest.mark.parametrize("dotted", ["2.5.29.17", "1.3.6.1.5.5.7.1.24", "1.2.840.113549.1.1.11", "0.0", "2.999.127.128"])
def test_object_identifier_is_encoded_as_in_a_certificate(dotted: str) -> None:
    attribute = x509.NameAttribute(x509.ObjectIdentifier(dotted), "value")
    assert der.object_identifier(dotted) in x509.Name([attribute]).public_bytes()


def test_certificate_put_together_again_is_the_same(pki: Pki) -> None:
    certificate = x509.load_pem_x509_certificate((pki.directory / "leaf.pem").read_bytes())
    whole = certificate.public_bytes(serialization.Encoding.DER)
    signed, *signature = der.elements(der.content(whole))
    assert signed == certificate.tbs_certificate_bytes
    fields = b"".join(der.elements(der.content(signed)))
    assert der.element(der.SEQUENCE, der.element(der.SEQUENCE, fields) + b"".join(signature)) == whole
