"""`make mlflow`: this machine only, and a port that is taken is one line."""

import socket

import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking import serve


def test_the_server_is_bound_to_this_machine(outputs):
    command = serve.server_command(outputs, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{outputs}/mlflow.db"


def test_a_port_that_is_taken_is_one_line(outputs, capsys, monkeypatch):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["serve", "--outputs", str(outputs), "--port", str(port)])
        with pytest.raises(SystemExit) as stopped:
            serve.main()
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"make mlflow: port {port} cannot be opened (")
    assert printed.count("\n") == 1
    serve.check_port(port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ConfigError, match="cannot be opened"):
        serve.check_port(port)
