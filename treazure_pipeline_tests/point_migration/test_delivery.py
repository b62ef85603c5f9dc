from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from treazure_pipeline.errors import SettingsError
from treazure_pipeline.point_migration.backfill import MigrationError
from treazure_pipeline.point_migration.target import DeliveryError, Target
from treazure_pipeline_tests.balance_sync.shop import assert_in_step
from treazure_pipeline_tests.point_migration.migration_shop import MigrationShop
from treazure_pipeline_tests.point_migration.sftp import PASSWORD, Server, serving


@pytest.fixture
def written(new_migration_shop: Callable[..., MigrationShop]) -> MigrationShop:
    """A migration whose files are written."""
    migration_shop = new_migration_shop(members=60)
    migration_shop.prepare()
    migration_shop.shards()
    return migration_shop


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "served") as running:
        yield running


def assert_as_in_the_manifest(folder: Path) -> int:
    """Every file is what the manifest beside the folder says, and nothing else is there; return how many there are."""
    (listed,) = (folder.parent / "manifest").glob("*-manifest.json")
    manifest = json.loads(listed.read_text())
    assert {file.name for file in folder.iterdir()} == {each["name"] for each in manifest["files"]}
    for each in manifest["files"]:
        body = (folder / each["name"]).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (each["size"], each["sha256"])
        assert body.count(b"\n") - 1 == each["rows"]
    assert manifest["rows"] == sum(each["rows"] for each in manifest["files"])
    return len(manifest["files"])


def test_files_arrive_in_a_folder_next_to_a_manifest_of_rows_totals_and_digests(written: MigrationShop) -> None:
    done = written.deliver()
    assert done["sent"] == assert_as_in_the_manifest(written.delivered) == 3
    assert done["target"] == written.delivered.as_uri()


def test_delivering_twice_does_nothing(written: MigrationShop) -> None:
    written.deliver()
    before = {file.name: file.stat().st_mtime_ns for file in written.delivered.iterdir()}
    again = written.deliver()
    assert (again["sent"], again["sent_before"], again["no_longer_there"]) == (0, 3, 0)
    assert {file.name: file.stat().st_mtime_ns for file in written.delivered.iterdir()} == before


def test_files_that_the_importer_has_taken_are_not_sent_again_unless_a_person_says_so(written: MigrationShop) -> None:
    written.deliver()
    for file in written.delivered.iterdir():
        file.unlink()
    assert written.deliver()["no_longer_there"] == 3
    assert not list(written.delivered.iterdir())
    assert written.deliver(again=True)["sent"] == 3
    assert assert_as_in_the_manifest(written.delivered) == 3


def test_nothing_is_delivered_before_every_shard_has_its_files(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=60)
    migration_shop.prepare()
    migration_shop.fetch(0)
    migration_shop.write(0)
    with pytest.raises(MigrationError, match="2 of 3 shards have no files yet"):
        migration_shop.deliver()
    with pytest.raises(MigrationError, match="have not been read"):
        migration_shop.write(1)


@pytest.mark.parametrize("by", ["files", "api"])
def test_a_machine_that_has_no_files_or_others_writes_them_again(written: MigrationShop, by: str) -> None:
    (first, *_) = sorted((written.home / "migration" / "points" / "1" / "files").glob("*.csv"))
    first.write_bytes(first.read_bytes().replace(b"Purchase", b"Purchases", 1))
    shutil.rmtree(first.parent) if by == "api" else None
    done = written.deliver(by=by)
    if by == "files":
        assert done["sent"] == assert_as_in_the_manifest(written.delivered) == 3
    else:
        assert (done["sent"], done["refused"]) == (done["rows"], 0)


def test_a_file_that_can_not_be_written_again_as_it_was_is_not_delivered(written: MigrationShop) -> None:
    shutil.rmtree(written.home / "migration")
    written.shop.sql(
        "update migration_contact set balance = balance + 1, imported = imported + 1 "
        "where shard = 1 and imported is not null"
    )
    with pytest.raises(MigrationError, match=r"can't be written again as it was.*shard 1 again"):
        written.deliver()


def test_files_whose_rows_do_not_add_up_are_not_delivered(written: MigrationShop) -> None:
    written.shop.sql("update migration_contact set balance = balance + 1 where imported > 0 and shard = 1")
    with pytest.raises(MigrationError, match="do not add up to the balance"):
        written.deliver()
    assert written.shop.sql("select distinct state from migration_file") == [("written",)]


def test_files_reach_an_sftp_server_whose_key_is_known(written: MigrationShop, server: Server) -> None:
    written.home.mkdir(exist_ok=True)
    (written.home / "known_hosts").write_text(server.known_host)
    given = {"MIGRATION_DELIVERY_URL": server.url}
    done = written.deliver(changes=given)
    assert done["target"] == f"sftp://127.0.0.1:{server.port}/in"
    assert assert_as_in_the_manifest(server.root / "in") == 3
    assert written.deliver(changes=given)["sent"] == 0
    written.shop.sandbox.import_folder(server.root / "in")
    assert written.audit().equal == 60
    assert_in_step(written.shop)


def test_an_sftp_server_that_is_not_known_gets_no_password_and_no_file(written: MigrationShop, server: Server) -> None:
    with pytest.raises(DeliveryError, match="host key") as raised:
        written.deliver(changes={"MIGRATION_DELIVERY_URL": server.url})
    assert PASSWORD not in str(raised.value)
    assert "p4ss" not in str(raised.value)
    assert list(server.root.iterdir()) == []


def test_a_wrong_password_is_told_without_showing_it(written: MigrationShop, server: Server) -> None:
    written.home.mkdir(exist_ok=True)
    (written.home / "known_hosts").write_text(server.known_host)
    with pytest.raises(DeliveryError, match="Authentication failed") as raised:
        written.deliver(changes={"MIGRATION_DELIVERY_URL": server.url.replace("p4ss", "wr0ng")})
    assert "wr0ng" not in str(raised.value)


def test_a_target_shows_no_secret_and_one_that_can_not_be_used_is_named() -> None:
    target = Target("s3://key:secret@bucket/folder?token=secret")
    assert "secret" not in f"{target} {target!r}"
    with pytest.raises(SettingsError, match="nowhere://"), Target("nowhere://u:secret@host/in").opened():
        pass
    for root in ("memory://", "file:///"):
        with pytest.raises(SettingsError, match="a folder inside another"), Target(root).opened():
            pass
    with pytest.raises(SettingsError, match="manifest goes"), Target("memory://in/manifest").opened():
        pass


def test_a_ledger_on_a_server_needs_a_target_that_every_machine_finds(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=1)
    del migration_shop.shop.environ["MIGRATION_DELIVERY_URL"]
    with pytest.raises(SettingsError, match="MIGRATION_DELIVERY_URL is not set"):
        migration_shop.prepare()
    assert migration_shop.mode() == "live"
    assert migration_shop.prepare(by="api").figures["contacts"] == 1


def test_a_ledger_on_a_server_needs_a_place_for_reports_that_every_machine_finds(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=1)
    del migration_shop.shop.environ["MIGRATION_REPORT_URL"]
    for by in ("files", "api"):
        with pytest.raises(SettingsError, match="MIGRATION_REPORT_URL is not set"):
            migration_shop.prepare(by=by)
    assert migration_shop.mode() == "live"


@pytest.mark.parametrize("by", ["files", "api"])
def test_every_step_may_run_on_a_host_of_its_own(
    new_migration_shop: Callable[..., MigrationShop], tmp_path: Path, by: str
) -> None:
    key_type = "ContactId" if by == "api" else "MemberNumber"
    migration_shop = new_migration_shop(members=60, environ={"MIGRATION_KEY_TYPE": key_type})
    sandbox = migration_shop.shop.sandbox
    keys = tmp_path / "keys.csv"
    known = sandbox.keys("MemberNumber")
    keys.write_text("contact;key\n" + "".join(f"{contact};{key}\n" for contact, key in known.items()))

    def elsewhere() -> str:
        """A home that no other step has."""
        return str(tmp_path / uuid.uuid4().hex)

    mapping = keys.as_uri() if by == "files" else None
    migration_shop.prepare(by=by, mapping=mapping, TREAZURE_PIPELINE_HOME=elsewhere())
    for shard in range(3):
        migration_shop.fetch(shard, TREAZURE_PIPELINE_HOME=elsewhere())
        migration_shop.write(shard, TREAZURE_PIPELINE_HOME=elsewhere())
    migration_shop.deliver(by=by, changes={"TREAZURE_PIPELINE_HOME": elsewhere()})
    if by == "files":
        migration_shop.import_files()
    sandbox.apply_queue()
    found = migration_shop.audit(TREAZURE_PIPELINE_HOME=elsewhere())
    assert (found.contacts, found.equal) == (60, 60)
    assert sorted(path.name for path in (migration_shop.reports / "points" / "1" / "audit").iterdir()) == [
        "audit.html", "contacts.csv", "findings.csv",
    ]  # fmt: skip
    assert_in_step(migration_shop.shop)


def test_what_the_api_needs_is_known_before_the_programme_is_switched(
    new_migration_shop: Callable[..., MigrationShop],
) -> None:
    migration_shop = new_migration_shop(members=1, environ={"MIGRATION_KEY_TYPE": "MemberNumber"})
    keys = migration_shop.home.parent / "keys.csv"
    keys.write_text(f"contact;key\n{migration_shop.shop.sandbox.contact_ids()[0]};M-1\n")
    with pytest.raises(MigrationError, match="The API names contacts by their id"):
        migration_shop.prepare(mapping=keys, by="api")
    assert migration_shop.mode() == "live"
