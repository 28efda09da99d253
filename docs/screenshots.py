"""Take the screenshot of README.md: ``python docs/screenshots.py [DIRECTORY]``; it needs Chromium.

An exporter probes a few servers on loopback for a while. Some of them fail, so that the page has something to tell. The
image is written again with a palette of 256 colours, which makes it a third as large.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from PIL import Image

from probe_exporter.testing import Certificate, Peer, serve

IMAGES = Path(__file__).parent / "images"

ROUNDS = 14
FAILS_FROM = 9
"""The round from which on one of the servers is broken."""

WIDTH, HEIGHT = 1080, 570

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Target(NamedTuple):
    """A module and the URL or address that it probes."""

    module: str
    target: str


def main(directory: Path) -> None:
    """Write the images.

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("There is no Chromium here: on Debian, apt-get install chromium")
    directory.mkdir(exist_ok=True)
    with contextlib.ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        certificate = Certificate(names=("intranet.localhost",), days=-3)
        targets = running.enter_context(servers(certificate))
        url = running.enter_context(exporter(scratch, certificate))
        for number in range(ROUNDS):
            Outage.now = number >= FAILS_FROM
            for target in targets:
                fetch(f"{url}probe?{urlencode(target._asdict())}")
        image = directory / "overview.png"
        shoot(browser, scratch, url, image)
        with Image.open(image) as whole:
            whole.convert("RGB").quantize().save(image, optimize=True)
    print(directory / "overview.png")  # noqa: T201  # a script


class Outage:
    """Whether the server that breaks is broken now."""

    now = False


@contextlib.contextmanager
def servers(certificate: Certificate) -> Iterator[list[Target]]:
    """Start the servers; yield what to probe. All names below ``localhost`` are this machine (RFC 6761, 6.3)."""

    def answer(peer: Peer) -> None:
        peer.line()
        peer.send(BROKEN if Outage.now else OK)

    def works(peer: Peer) -> None:
        peer.line()
        peer.send(OK)

    with (
        serve(works) as web,
        serve(answer) as api,
        serve(works, tls=True, certificate=certificate) as intranet,
        serve(b"220 mail.localhost\r\n") as mail,
    ):
        yield [
            Target("http_2xx", f"http://shop.localhost:{web.port}/"),
            Target("http_2xx", f"http://api.localhost:{api.port}/health"),
            Target("https", f"https://intranet.localhost:{intranet.port}/"),
            Target("tcp_connect", f"mail.localhost:{mail.port}"),
            Target("tcp_connect", "ldap.localhost:1"),
        ]


@contextlib.contextmanager
def exporter(directory: Path, certificate: Certificate) -> Iterator[str]:
    """Start an exporter; yield its URL."""
    http = {"preferred_ip_protocol": "ip4", "tls_config": {"ca": certificate.pem}}
    modules = {
        "http_2xx": {"prober": "http", "http": {"preferred_ip_protocol": "ip4"}},
        "https": {"prober": "http", "http": http},
        "tcp_connect": {"prober": "tcp", "tcp": {"preferred_ip_protocol": "ip4"}},
    }
    (directory / "blackbox.yml").write_text(json.dumps({"modules": modules}), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "probe_exporter", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not fetch(f"http://127.0.0.1:{port}/-/healthy"):
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def fetch(url: str) -> bytes:
    """Return the answer to a request; nothing if there is none."""
    try:
        with urllib.request.urlopen(url) as answer:
            content: bytes = answer.read()
            return content
    except OSError:
        return b""


def shoot(browser: str, scratch: Path, url: str, image: Path) -> None:
    """Let the browser write an image of a page."""
    flags = [
        "--headless=new",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--user-data-dir={scratch / 'profile'}",
        f"--screenshot={image}",
    ]
    if os.geteuid() == 0:  # Chromium's sandbox does not work for root
        flags.append("--no-sandbox")
    subprocess.run([browser, *flags, url], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
