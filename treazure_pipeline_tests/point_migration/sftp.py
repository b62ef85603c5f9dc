"""A real SFTP server on loopback, with one user and a folder of this machine behind it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.sftp import SFTP_OK

USER = "retailer"
PASSWORD = "p4ss/word"


@dataclass(frozen=True)
class Server:
    """Where it is, what it serves, and its line for a file of known hosts."""

    port: int
    root: Path
    host_key: paramiko.PKey

    @property
    def url(self) -> str:
        return f"sftp://{USER}:p4ss%2Fword@127.0.0.1:{self.port}/in"

    @property
    def known_host(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}\n"


class _Access(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == (USER, PASSWORD)
        return AUTH_SUCCESSFUL if right else AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password" if username else ""

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED if kind == "session" and chanid >= 0 else 1


class _Changes(paramiko.SFTPServerInterface):
    root: Path

    def _at(self, path: str) -> Path:
        return self.root / self.canonicalize(path).lstrip("/")

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        self._at(oldpath).replace(self._at(newpath))
        return SFTP_OK

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        assert attr is not None
        self._at(path).mkdir()
        return SFTP_OK

    def remove(self, path: str) -> int:
        self._at(path).unlink()
        return SFTP_OK


def _files(folder: Path) -> type[paramiko.SFTPServerInterface]:
    class Files(_Changes):
        root = folder

        def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
            try:
                entries = sorted(self._at(path).iterdir())
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)
            return [paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name) for entry in entries]

        def stat(self, path: str) -> paramiko.SFTPAttributes | int:
            try:
                return paramiko.SFTPAttributes.from_stat(self._at(path).stat())
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)

        lstat = stat

        def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
            assert attr is not None
            try:
                opened = os.fdopen(os.open(self._at(path), flags, 0o644), "r+b" if flags & os.O_RDWR else "wb")
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)
            handle = paramiko.SFTPHandle(flags)
            handle.writefile = opened  # type: ignore[attr-defined]
            handle.readfile = opened  # type: ignore[attr-defined]
            handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(opened.fileno()))  # type: ignore[method-assign]
            return handle

    return Files


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Serve a folder until the block ends."""
    root.mkdir()
    key = paramiko.ECDSAKey.generate()
    over = threading.Event()
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                transport = paramiko.Transport(connection)
                transports.append(transport)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _files(root))
                try:
                    transport.start_server(server=_Access())
                except (paramiko.SSHException, EOFError):
                    transport.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield Server(listener.getsockname()[1], root, key)
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for transport in transports:
                transport.close()
