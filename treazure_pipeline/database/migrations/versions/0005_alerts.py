"""Alerts by state, rejections that resolve, and the history of changes as a view.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = """
create table alert (
    key text primary key,
    episode integer not null default 1,
    firing boolean not null,
    began timestamptz not null,
    ended timestamptz,
    title text not null,
    body text not null
);
comment on table alert is 'what is wrong, or was: one row for each thing that can be wrong';
comment on column alert.episode is 'how often it has begun';
create table alert_told (
    key text not null references alert on delete cascade,
    target text not null,
    episode integer not null,
    firing boolean not null,
    told_at timestamptz,
    failed integer not null default 0,
    primary key (key, target)
);
comment on table alert_told is 'the last state of an alert that a target was told; a message is due where the alert has moved on';
comment on column alert_told.target is 'a hash of the address, which is a secret';
comment on column alert_told.failed is 'tries since the last message that got through';

alter table rejection add column since timestamptz not null default clock_timestamp();
alter table rejection add column resolved_at timestamptz;
alter table rejection add column resolved_by text check (resolved_by in ('export', 'account', 'full_export', 'person'));
alter table rejection add column note text;
update rejection set since = first_seen;
comment on column rejection.since is 'outstanding since; later than first_seen where it was resolved and came again';
comment on column rejection.resolved_by is
    'export: a later one brought a good row; account: it was read; full_export: not listed any more; person: discarded for good';
create index rejection_outstanding on rejection (programme, contact) where resolved_at is null;

create index change_noted on change (programme, noted_at);
create view balance_change as
    select g.name as programme, r.contact, r.before, r.after, r.after - coalesce(r.before, 0) as points, c.noted_at,
           o.source, o.run_id, o.window_from, o.window_to, o.asked, o.answered, c.observation
    from change c join programme g on g.id = c.programme left join observation o on o.id = c.observation,
         unnest(c.contacts, c.before, c.after) as r (contact, before, after);
comment on view balance_change is 'every change of a master balance: from, to, when, which observation and run noted it';
"""


def upgrade() -> None:
    """Create the tables of alerts, let rejections resolve, show the changes."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop all of it, with its data; every rejection counts as outstanding again."""
    op.execute(
        "drop view balance_change; drop index change_noted; drop index rejection_outstanding; "
        "alter table rejection drop column since, drop column resolved_at, drop column resolved_by, drop column note; "
        "drop table alert_told, alert;"
    )
