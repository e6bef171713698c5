"""An MLflow server that is away for a while."""

import socket
import threading
import time

import pytest

from gace.errors import RegistryError
from gace_platform.registry.store import wait_for_server

LOOPBACK = "127.0.0.1"


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def test_a_server_that_stays_away_is_one_line(free_port):
    with pytest.raises(RegistryError, match=rf"no MLflow server answers at http://{LOOPBACK}:{free_port} "):
        wait_for_server(f"http://{LOOPBACK}:{free_port}", patience=0.5)


def test_a_server_that_comes_back_is_waited_for(free_port):
    def come_back():
        time.sleep(1.0)
        with socket.create_server((LOOPBACK, free_port)) as server:
            server.accept()

    server = threading.Thread(target=come_back)
    server.start()
    wait_for_server(f"http://{LOOPBACK}:{free_port}", patience=20.0)
    server.join(20)
    assert not server.is_alive()
