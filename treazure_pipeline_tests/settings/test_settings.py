from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.settings import Programme, load_console, load_receiver, load_settings, load_storage

COMPLETE = {
    "TREAZURE_BASE_URL": "https://treazure.example/",
    "TREAZURE_CLIENT_ID": "client",
    "TREAZURE_CLIENT_SECRET": "treazure-secret",
    "TREAZURE_LOYALTY_ID": "LOYALTY",
    "ENGAGE_BASE_URL": "https://engage.example",
    "ENGAGE_API_KEY": "engage-secret",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in COMPLETE.items() if name not in names}


def refused(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return str(caught.value)


def test_six_variables_are_enough() -> None:
    settings = load_settings(COMPLETE)

    assert settings.treazure_base_url == "https://treazure.example"
    assert settings.engage_api_key.get_secret_value() == "engage-secret"
    assert settings.programmes == (
        Programme(
            name="points",
            loyalty_id="LOYALTY",
            definition_id=1,
            beginning=datetime(2000, 1, 1, tzinfo=UTC),
            decimals=2,
        ),
    )
    assert not settings.prefixed
    assert settings.database_url is None
    assert settings.home == Path.cwd() / ".treazure"
    assert (settings.engage_max_requests_per_second, settings.engage_batch_size) == (45, 1000)
    assert (settings.retry_scale, settings.engage_api_version) == (1, "v2")


def test_client_and_environment_form_the_addresses() -> None:
    parts = {"TREAZURE_CLIENT": "shop", "TREAZURE_ENVIRONMENT": "treazure-test", "ENGAGE_CLIENT": "brand"}
    environ = without("TREAZURE_BASE_URL", "ENGAGE_BASE_URL") | parts

    assert load_settings(environ).treazure_base_url == "https://shop.posengine.treazure-test.cloud"
    assert load_settings(environ).engage_base_url == "https://brand.voyado.com"
    assert load_settings(environ | {"ENGAGE_STAGING": "1"}).engage_base_url == "https://brand.staging.voyado.com"


def test_one_message_names_everything_that_is_missing() -> None:
    message = refused({})

    for name in COMPLETE:
        assert name in message
    assert message.startswith("6 settings need to be fixed")


def test_one_message_names_what_is_missing_and_what_is_wrong() -> None:
    message = refused(
        without("ENGAGE_API_KEY")
        | {
            "ENGAGE_BATCH_SIZE": "1001",
            "TREAZURE_CONCURRENCY": "many",
            "PROGRAMME_NAME": "My Points",
            "PROGRAMME_DECIMALS": "-1",
            "TREAZURE_PIPELINE_RETRY_SCALE": "nan",
        }
    )

    for name in (
        "ENGAGE_API_KEY is missing",
        "ENGAGE_BATCH_SIZE ('1001')",
        "TREAZURE_CONCURRENCY ('many')",
        "PROGRAMME_NAME ('My Points')",
        "PROGRAMME_DECIMALS ('-1')",
        "TREAZURE_PIPELINE_RETRY_SCALE ('nan')",
    ):
        assert name in message


def test_half_of_an_address_names_the_other_half() -> None:
    message = refused(without("TREAZURE_BASE_URL") | {"TREAZURE_CLIENT": "shop"})

    assert "TREAZURE_ENVIRONMENT is missing" in message
    assert message.startswith("1 setting needs")


@pytest.mark.parametrize("client", ["shop.evil.example/", "a b", "-shop", "shop@evil"])
def test_a_client_cannot_lead_to_another_host(client: str) -> None:
    environ = without("TREAZURE_BASE_URL", "ENGAGE_BASE_URL") | {"TREAZURE_ENVIRONMENT": "treazure"}

    message = refused(environ | {"TREAZURE_CLIENT": client, "ENGAGE_CLIENT": client})

    assert "TREAZURE_CLIENT (" in message
    assert "ENGAGE_CLIENT (" in message


def test_an_empty_value_counts_as_missing() -> None:
    assert "ENGAGE_API_KEY is missing" in refused(COMPLETE | {"ENGAGE_API_KEY": "  "})


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("http://127.0.0.1:8790", True),
        ("http://localhost:8790", True),
        ("http://[::1]:8790", True),
        ("http://engage.example", False),
        ("http://127.0.0.1.example", False),
        ("ftp://engage.example", False),
        ("engage.example", False),
    ],
)
def test_secrets_go_over_tls_unless_the_host_is_this_machine(address: str, *, fine: bool) -> None:
    environ = COMPLETE | {"ENGAGE_BASE_URL": address}

    if fine:
        assert load_settings(environ).engage_base_url == address
    else:
        assert "ENGAGE_BASE_URL" in refused(environ)


def test_no_message_and_no_repr_shows_a_secret() -> None:
    secrets = {
        "TREAZURE_PIPELINE_DATABASE_URL": "mysql://user:pass-word@db.example/ledger",
        "DAGSTER_POSTGRES_URL": "postgresql://user:pass-word@db.example/ledger?nonsense=1",
        "TREAZURE_BASE_URL": "https://user:pass-word@treazure.example",
        "ENGAGE_BATCH_SIZE": "0",
    }

    message = refused(COMPLETE | secrets)
    shown = repr(load_settings(COMPLETE)) + str(load_settings(COMPLETE).model_dump())

    for name in secrets:
        assert name in message
    assert "pass-word" not in message
    assert "secret" not in message
    assert "treazure-secret" not in shown
    assert "engage-secret" not in shown


def test_an_adjustment_is_never_looked_up_before_its_call_has_timed_out() -> None:
    message = refused(COMPLETE | {"TREAZURE_TIMEOUT_SECONDS": "90", "TREAZURE_LOOKUP_WAIT_SECONDS": "60"})

    assert "TREAZURE_LOOKUP_WAIT_SECONDS (60) must not be shorter than TREAZURE_TIMEOUT_SECONDS (90)" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-05-01", datetime(2020, 5, 1, tzinfo=UTC)),
        ("2020-05-01T12:00:00", datetime(2020, 5, 1, 12, tzinfo=UTC)),
        ("2020-05-01T12:00:00+02:00", datetime(2020, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_beginning_is_utc(text: str, expected: datetime) -> None:
    beginning = load_settings(COMPLETE | {"PROGRAMME_BEGINNING": text}).programmes[0].beginning

    assert beginning == expected
    assert beginning.tzinfo is UTC


def test_several_programmes_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "programmes.yaml"
    file.write_text(
        """
        - name: club
          loyalty_id: CLUB
          definition_id: 2
          beginning: 2019-03-01
          decimals: 0
        - {name: staff, loyalty_id: "007", definition_id: 3}
        """
    )

    settings = load_settings(without("TREAZURE_LOYALTY_ID") | {"TREAZURE_PIPELINE_PROGRAMMES": str(file)})

    assert settings.prefixed
    assert settings.programmes == (
        Programme(
            name="club",
            loyalty_id="CLUB",
            definition_id=2,
            beginning=datetime(2019, 3, 1, tzinfo=UTC),
            decimals=0,
        ),
        Programme(name="staff", loyalty_id="007", definition_id=3),
    )


def test_a_file_with_one_programme_needs_no_prefix(tmp_path: Path) -> None:
    file = tmp_path / "programmes.yaml"
    file.write_text("- {name: club, loyalty_id: CLUB}")

    settings = load_settings(without("TREAZURE_LOYALTY_ID") | {"TREAZURE_PIPELINE_PROGRAMMES": str(file)})

    assert not settings.prefixed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "must be a YAML list"),
        ("name: club", "must be a YAML list"),
        ("- [", "is not YAML"),
        ("- club", "programme 1: it must have keys and values"),
        ("- {loyalty_id: CLUB}", "programme 1: name is missing"),
        ("- {name: club}", "programme 1 (club): loyalty_id is missing"),
        ("- {name: Club, loyalty_id: CLUB}", "programme 1 (Club): name must match"),
        ("- {name: club, loyalty_id: 007}", "programme 1 (club): loyalty_id must be a valid string"),
        ("- {name: club, loyalty_id: CLUB, color: red}", "programme 1 (club): color is not a known key"),
        (
            "- {name: a, loyalty_id: A}\n- {name: a, loyalty_id: B, definition_id: 2}",
            "more than one programme has name 'a'",
        ),
        ("- {name: a, loyalty_id: A}\n- {name: b, loyalty_id: B}", "more than one programme has definition_id 1"),
        (
            "- {name: a, loyalty_id: A}\n- {name: b, loyalty_id: A, definition_id: 2}",
            "more than one programme has loyalty_id 'A'",
        ),
    ],
)
def test_a_file_with_mistakes_is_one_message(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "programmes.yaml"
    file.write_text(content)

    message = refused(without("TREAZURE_LOYALTY_ID") | {"TREAZURE_PIPELINE_PROGRAMMES": str(file)})

    assert "TREAZURE_PIPELINE_PROGRAMMES" in message
    assert complaint in message
    assert message.startswith("1 setting needs")


def test_a_file_and_single_settings_contradict_each_other(tmp_path: Path) -> None:
    file = tmp_path / "programmes.yaml"
    file.write_text("- {name: club, loyalty_id: CLUB}")

    assert "TREAZURE_LOYALTY_ID can't be set" in refused(COMPLETE | {"TREAZURE_PIPELINE_PROGRAMMES": str(file)})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")

    assert missing in refused(without("TREAZURE_LOYALTY_ID") | {"TREAZURE_PIPELINE_PROGRAMMES": missing})


def test_where_data_is_kept_is_known_without_the_two_systems(tmp_path: Path) -> None:
    storage = load_storage(
        {
            "TREAZURE_PIPELINE_HOME": str(tmp_path),
            "TREAZURE_PIPELINE_DATABASE_URL": "postgres://user:pass-word@db.example/ledger",
        }
    )

    assert storage.home == tmp_path
    assert storage.database_url is not None
    assert (
        storage.database_url.get_secret_value() == "postgresql://user:pass-word@/ledger?host=db.example&sslmode=require"
    )


SECRETS = {
    "TREAZURE_CLIENT_SECRET": ("treazure_client_secret", "from-a-file"),
    "ENGAGE_API_KEY": ("engage_api_key", "from-a-file"),
    "TREAZURE_PIPELINE_DATABASE_URL": ("database_url", "postgresql://user:from-a-file@/ledger"),
    "DAGSTER_POSTGRES_URL": ("dagster_postgres_url", "postgresql://user:from-a-file@/dagster"),
    "DEAD_MAN_URL": ("dead_man_url", "https://from-a-file.example"),
    "MIGRATION_DELIVERY_URL": ("migration_delivery_url", "sftp://from-a-file.example"),
}


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_may_stand_in_a_file_whose_last_line_break_does_not_count(variable: str, tmp_path: Path) -> None:
    field, secret = SECRETS[variable]
    file = tmp_path / "secret"
    file.write_text(f"{secret}\r\n")

    settings = load_settings(without(variable) | {f"{variable}_FILE": str(file)})

    assert getattr(settings, field).get_secret_value() == secret


def test_the_receivers_secrets_may_stand_in_files(tmp_path: Path) -> None:
    secrets = {
        "hook": "whsec_c2VjcmV0\n",
        "key": "visible-" * 4,
        "treazure": "mine\n",
        "url": "postgresql://db/ledger\n",
    }
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)

    settings = load_receiver(
        without("TREAZURE_CLIENT_SECRET")
        | {
            "ENGAGE_WEBHOOK_SECRET_FILE": str(tmp_path / "hook"),
            "HISTORY_API_KEY_FILE": str(tmp_path / "key"),
            "TREAZURE_CLIENT_SECRET_FILE": str(tmp_path / "treazure"),
            "TREAZURE_PIPELINE_DATABASE_URL_FILE": str(tmp_path / "url"),
        }
    )

    assert [secret.get_secret_value() for secret in settings.engage_webhook_secret] == ["whsec_c2VjcmV0"]
    assert settings.history_api_key is not None
    assert settings.history_api_key.get_secret_value() == "visible-" * 4
    assert settings.master is not None
    assert settings.master.treazure_client_secret.get_secret_value() == "mine"
    assert settings.database_url == settings.master.database_url


def test_the_console_looks_into_treazure_only_with_credentials_and_both_addresses(tmp_path: Path) -> None:
    (tmp_path / "treazure").write_text("mine\n")
    given = without("TREAZURE_CLIENT_SECRET") | {"TREAZURE_CLIENT_SECRET_FILE": str(tmp_path / "treazure")}
    master = load_console(given).master

    assert master is not None
    assert master.treazure_client_secret.get_secret_value() == "mine"
    for name in ("TREAZURE_CLIENT_ID", "TREAZURE_CLIENT_SECRET_FILE", "ENGAGE_BASE_URL"):
        assert load_console({key: value for key, value in given.items() if key != name}).master is None


def test_a_file_that_holds_no_secret_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "good").write_text("pass-word")
    for path, said in {
        tmp_path / "missing": "cannot be read: No such file or directory",
        tmp_path: "cannot be read: Is a directory",
        tmp_path / "empty": "is empty",
        tmp_path / "binary": "is not UTF-8 text",
    }.items():
        message = refused(without("ENGAGE_API_KEY") | {"ENGAGE_API_KEY_FILE": str(path)})
        assert message.startswith("1 setting needs")
        assert f"ENGAGE_API_KEY_FILE ({str(path)!r}) {said}." in message

    twice = refused(COMPLETE | {"ENGAGE_API_KEY_FILE": str(tmp_path / "good")})
    assert "ENGAGE_API_KEY_FILE can't be set together with ENGAGE_API_KEY" in twice
    assert "pass-word" not in twice


def test_only_one_programme_keeps_its_names(tmp_path: Path) -> None:
    file = tmp_path / "programmes.yaml"
    file.write_text(
        "- {name: a, loyalty_id: A, keeps_names: true}\n- {name: b, loyalty_id: B, definition_id: 2, keeps_names: true}"
    )
    with pytest.raises(SettingsError, match="more than one programme has keeps_names"):
        load_settings(without("TREAZURE_LOYALTY_ID") | {"TREAZURE_PIPELINE_PROGRAMMES": str(file)})


@pytest.mark.parametrize("variable", ["TREAZURE_PIPELINE_HOME", "TREAZURE_PIPELINE_PROGRAMMES", "ENGAGE_API_KEY_FILE"])
def test_a_home_directory_that_is_not_there_is_a_line(variable: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if name not in {"TREAZURE_LOYALTY_ID", "ENGAGE_API_KEY"}}

    assert f"{variable} ('~nobody-here/x') begins with ~" in refused(environ | {variable: "~nobody-here/x"})
