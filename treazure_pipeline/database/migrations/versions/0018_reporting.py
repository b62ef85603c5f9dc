"""The reporting views, and what each day adds to the points outstanding.

The views stand in `0018_reporting.sql`. A migration that makes one of the ledger's views anew has to make the reporting views
that read it anew too: columns are added to them, never taken away or renamed.

Revision ID: 0018
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0017"

SCHEMA = """
alter table programme add column points_added numeric not null default 0;
comment on column programme.points_added is
    'running total of what raised points_total; where a writer leaves it out, the net of its transaction counts';

create table liability_day (
    programme smallint not null,
    day date not null,
    carried numeric not null default 0,
    added numeric not null default 0,
    decreased numeric not null default 0,
    primary key (programme, day)
) with (fillfactor = 50);
comment on table liability_day is 'what raised and lowered programme.points_total, by day (UTC): one row for each day on which it moved';
comment on column liability_day.carried is 'points that were outstanding before days were counted';

-- A trigger, so that whoever moves the total is counted, a process of an older version too.
create function note_liability() returns trigger language plpgsql as $$
declare
    net numeric := new.points_total - coalesce(old.points_total, 0);
    added_ numeric := greatest(new.points_added - coalesce(old.points_added, 0), net, 0);
begin
    if added_ > 0 or net < 0 then
        insert into treazure_pipeline.liability_day as d (programme, day, added, decreased)
        values (new.id, (clock_timestamp() at time zone 'UTC')::date, added_, added_ - net)
        on conflict (programme, day) do update
        set added = d.added + excluded.added, decreased = d.decreased + excluded.decreased;
    end if;
    return null;
end $$;
create trigger programme_liability after insert or update of points_total on programme
    for each row execute function note_liability();
insert into liability_day (programme, day, carried)
select id, (clock_timestamp() at time zone 'UTC')::date, points_total from programme where points_total <> 0;
"""


def upgrade() -> None:
    """Count from today on, and create the views."""
    op.execute(SCHEMA)
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Drop the views and the days that were counted."""
    op.execute(
        "drop view treazure_reporting.contact_balance, treazure_reporting.balance_change, treazure_reporting.movement, "
        "treazure_reporting.liability_daily, treazure_reporting.rejection_open, treazure_reporting.drift_open, "
        "treazure_reporting.sync_run, treazure_reporting.adjustment; "
        "drop trigger programme_liability on programme; drop function note_liability(); drop table liability_day; "
        "alter table programme drop column points_added"
    )
