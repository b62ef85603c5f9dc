from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

from treazure_pipeline.database import urls

TAKEN = [
    "postgresql:///ledger",
    "postgresql://",
    "postgres://user:p%40ss%3Aword%2F%25+@localhost/ledger",
    "postgresql://us%20er@localhost:5433/led%2Fger",
    "postgresql://one:5433,localhost/ledger?target_session_attrs=read-write&sslmode=disable",
    "postgresql://[::1]:5433/ledger",
    "postgresql://[::1]:5433,[::1]:5434/ledger",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/ledger",
    "postgresql:///ledger?host=/var/run/a%20b%25c&port=5433",
    "postgresql:///ledger?host=/one,/two&port=5433,5434",
    "postgresql://localhost/ledger?options=-c%20work_mem%3D64MB%20-c%20a.b%3Dc%2Bd",
    "postgresql://localhost/ledger?application_name=a%26b&connect_timeout=3&keepalives=1",
    "postgresql:///?service=ledger",
    "postgresql://db.example/ledger?sslmode=verify-full&sslrootcert=/etc/ssl/my%20ca.pem",
]


@pytest.mark.parametrize("url", TAKEN)
def test_every_driver_understands_an_address_as_libpq_does(url: str) -> None:
    meant = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    written = urls.canonical(url)

    assert conninfo_to_dict(written) == meant
    assert urls.is_plain(written)
    assert urls.canonical(written) == written


@pytest.mark.parametrize(
    ("url", "sslmode"),
    [
        ("postgresql://db.example/ledger", "require"),
        ("postgresql://10.0.0.7:5432/ledger", "require"),
        ("postgresql://localhost,db.example/ledger", "require"),
        ("postgresql:///ledger?host=db.example", "require"),
        ("postgresql://name/ledger?hostaddr=10.0.0.7", "require"),
        ("postgresql://db.example/ledger?sslmode=disable", "disable"),
        ("postgresql://db.example/ledger?sslmode=verify-full", "verify-full"),
        ("postgresql://db.example/ledger?sslrootcert=system", None),
        ("postgresql:///ledger?service=ledger", None),
        ("postgresql://127.0.0.1/ledger", None),
        ("postgresql://[::1]/ledger", None),
        ("postgresql://localhost/ledger", None),
        ("postgresql://name/ledger?hostaddr=127.0.0.1", None),
        ("postgresql:///ledger?host=/run/postgresql", None),
        ("postgresql:///ledger", None),
    ],
)
def test_tls_is_asked_of_other_hosts_unless_the_address_says_otherwise(url: str, sslmode: str | None) -> None:
    assert conninfo_to_dict(urls.canonical(url)).get("sslmode") == sslmode


def test_what_the_environment_says_for_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert "sslmode=require" in urls.canonical("postgresql:///ledger")

    monkeypatch.setenv("PGSSLMODE", "disable")
    assert "sslmode" not in urls.canonical("postgresql:///ledger")


@pytest.mark.parametrize("url", ["mysql://user:pass-word@db.example/ledger", "postgresql://user:pass-word@h/l?no=1"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"PostgreSQL understands|must begin") as refused:
        urls.canonical(url)

    assert "pass-word" not in str(refused.value)


def test_a_sibling_differs_in_the_database_alone_and_a_password_is_noticed() -> None:
    url = "postgresql://user:p%40ss@one,two/ledger?sslmode=disable"

    assert conninfo_to_dict(urls.sibling(url, "dagster")) == conninfo_to_dict(url) | {"dbname": "dagster"}
    assert urls.has_password(url)
    assert not urls.has_password("postgresql://user@one/ledger")
    assert "p%40ss" not in urls.without_secrets(url)


def test_what_sqlalchemy_does_not_understand_as_it_stands_is_noticed() -> None:
    assert not urls.is_plain("postgresql://one:5432,two:5433/ledger")
    assert not urls.is_plain("postgresql://localhost/led%2Fger")
    assert urls.is_plain("postgresql://user:p%40ss@localhost:5432/ledger")


def test_several_hosts_are_tried_in_their_order_by_every_driver(database_url: str) -> None:
    """The first one refuses; the second is a socket."""
    socket = str(conninfo_to_dict(database_url)["host"])
    url = urls.canonical(database_url.replace("host=", "host=127.0.0.1,").replace("?", "?port=1,5432&", 1))
    assert socket in url

    with psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as second:
        assert second.execute(sa.text("select 1")).scalar_one() == 1
