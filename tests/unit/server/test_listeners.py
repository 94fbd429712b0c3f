"""Sockets that are opened once."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from sora import config as configuration
from sora.errors import ConfigError
from sora.server.listeners import Listeners, endpoints


def config(servers: dict[str, Any]) -> configuration.Config:
    return configuration.parse(
        {
            "database": {"primary": "postgresql:///sora"},
            "object_store": {"path": "objects"},
            "local_cache": {"capacity": 0},
            "uploader": {"staging_path": "staging"},
            "process": {"runtime_path": "run"},
            "servers": servers,
        },
        base=Path("/srv"),
    )


TLS = {"tls_cert": "cert.pem", "tls_key": "key.pem"}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_endpoints_by_name() -> None:
    some = config({"imap": {"listen": ["127.0.0.1:1"], "tls_listen": ["[::1]:2"], **TLS}, "pop3": {"enabled": False}})
    assert [(endpoint.name, endpoint.address) for endpoint in endpoints(some)] == [
        ("imap", "127.0.0.1:1"),
        ("imaps", "[::1]:2"),
    ]


def test_one_socket_per_slot_on_one_port_and_a_queue_that_outlives_a_worker() -> None:
    listeners = Listeners.open(config({"imap": {"listen": ["127.0.0.1:0"]}}), 3)
    try:
        sockets = [sock for slot in range(3) for _, sock in listeners.of_slot(slot)]
        port = listeners.ports()["imap"]
        assert len({sock.fileno() for sock in sockets}) == 3
        assert {sock.getsockname()[1] for sock in sockets} == {port}
        # A worker's duplicate comes and goes; the connection that waits in the queue stays.
        clients = [connect(port) for _ in range(30)]
        for sock in sockets:
            sock.dup().close()
        accepted = []
        for sock in sockets:
            while True:
                try:
                    accepted.append(sock.accept()[0])
                except BlockingIOError:
                    break
        assert len(accepted) == len(clients)
        for one in (*clients, *accepted):
            one.close()
    finally:
        listeners.close()
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_unix_sockets_are_shared_and_their_file_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    listeners = Listeners.open(config({"lmtp": {"listen": [f"unix:{path}"]}}), 2)
    (first,), (second,) = (list(listeners.of_slot(slot)) for slot in range(2))
    assert first[1] is second[1]
    assert path.is_socket()
    assert listeners.ports() == {}
    listeners.close()
    assert not path.exists()


def test_an_address_in_use_is_named_and_nothing_stays_open() -> None:
    with socket.socket() as other:
        # Even one who would share it: half of his connections would come to us.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        servers = {"imap": {"listen": [f"127.0.0.1:{free}"]}, "pop3": {"listen": [f"127.0.0.1:{taken}"]}}
        with pytest.raises(ConfigError, match=rf"servers\.pop3: cannot listen on 127\.0\.0\.1:{taken}: already in use"):
            Listeners.open(config(servers), 2)
        with pytest.raises(ConnectionRefusedError):
            connect(free)


def test_http_has_sockets_of_its_own_that_no_worker_serves() -> None:
    servers = {"imap": {"listen": ["127.0.0.1:0"]}, "metrics": {"listen": ["127.0.0.1:0"]}}
    listeners = Listeners.open(config(servers), 2)
    try:
        assert [endpoint.server for endpoint, _ in listeners.of_slot(1)] == ["imap"]
        assert len(listeners.of_http("metrics")) == 1
        assert set(listeners.ports()) == {"imap", "metrics"}
    finally:
        listeners.close()


def test_a_socket_of_the_service_manager_is_used_for_its_address() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{given.getsockname()[1]}"
    listeners = Listeners.open(config({"imap": {"listen": [address]}}), 4, [given])
    assert {id(sock) for slot in range(4) for _, sock in listeners.of_slot(slot)} == {id(given)}
    listeners.close()
    assert given.fileno() == -1


def test_a_socket_that_nothing_names_is_an_error() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ConfigError, match="no server listens"):
        Listeners.open(config({"imap": {"listen": ["127.0.0.1:0"]}}), 1, [given])
    assert given.fileno() == -1
