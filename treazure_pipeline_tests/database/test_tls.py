"""A ledger on another host: TLS unless the address says otherwise, and a sentence where it can't be had."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from treazure_pipeline.database.urls import canonical
from treazure_pipeline_tests.cli.conftest import Run
from treazure_pipeline_tests.poolers import pooler
from treazure_pipeline_tests.processes import free_port


@pytest.fixture
def address() -> str:
    """An address of this machine at which it takes itself for another host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        found: str = probe.getsockname()[0]
    return found


@pytest.fixture
def certificate(address: str, home: Path) -> Path:
    """A certificate for that address, signed by itself, with its key beside it."""
    home.mkdir()
    home.chmod(0o777)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ledger")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = home / "certificate.pem"
    written.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (home / "key.pem").write_bytes(secret)
    return written


def _listed(run: Run, url: str) -> tuple[int, str]:
    result = run("adjustments", "list", TREAZURE_PIPELINE_DATABASE_URL=url)
    return result.returncode, result.stdout + result.stderr


def test_a_server_that_speaks_no_tls_is_refused_unless_the_address_allows_it(
    run: Run, database_url: str, home: Path, address: str
) -> None:
    port = free_port()
    with pooler(database_url, home, listen_addr=address, listen_port=port) as through:
        url = through.set(host=address, port=port, query={}).render_as_string(hide_password=False)

        code, said = _listed(run, url)

        assert code == 5
        assert "SSL" in said
        assert "sslmode" in said
        assert "Unexpected" not in said
        assert _listed(run, f"{url}?sslmode=disable")[0] == 0


def test_a_server_that_speaks_tls_is_spoken_to_so_and_its_certificate_checked_where_asked(
    run: Run, database_url: str, home: Path, address: str, certificate: Path
) -> None:
    port = free_port()
    options = {
        "client_tls_sslmode": "allow", "client_tls_key_file": home / "key.pem", "client_tls_cert_file": certificate
    }  # fmt: skip
    with pooler(database_url, home, listen_addr=address, listen_port=port, **options) as through:
        url = through.set(host=address, port=port, query={}).render_as_string(hide_password=False)

        with psycopg.connect(canonical(url)) as connection:
            assert connection.pgconn.ssl_in_use
        assert _listed(run, url)[0] == 0
        assert _listed(run, f"{url}?sslmode=verify-full&sslrootcert={certificate}")[0] == 0
        code, said = _listed(run, f"{url}?sslmode=verify-full&sslrootcert={home / 'none.pem'}")
        assert code == 5
        assert "none.pem" in said
        assert "Unexpected" not in said
