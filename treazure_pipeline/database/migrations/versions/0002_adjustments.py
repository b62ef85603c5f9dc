"""The queue of adjustments: points given in Engage, on their way to Treazure.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
create table adjustment (
    id bigint generated always as identity primary key,
    event_id text not null unique,
    delivery_id text,
    source text not null check (source in ('webhook', 'manual')),
    payload jsonb not null,
    receipt text not null unique,
    state text not null default 'received' check (state in
        ('received', 'queued', 'sending', 'posted', 'done', 'rejected', 'uncertain', 'discarded')),
    reason text,
    programme smallint references programme,
    contact uuid,
    amount numeric,
    description text,
    comment text,
    received_at timestamptz not null default clock_timestamp(),
    next_try timestamptz,
    tries integer not null default 0,
    lookups integer not null default 0,
    lease_until timestamptz,
    asked timestamptz,
    balance numeric,
    finished_at timestamptz
);
comment on table adjustment is 'points given in Engage; each changes Treazure once';
comment on column adjustment.event_id is 'what makes two deliveries the same event';
comment on column adjustment.receipt is 'derived from event_id; stands in context.receiptNr and so in the history';
comment on column adjustment.comment is 'the description as Treazure gets it: at most 100 characters';
comment on column adjustment.asked is 'when the last call to Treazure began (database clock)';
create index adjustment_open on adjustment (id) where state in ('received', 'queued', 'sending', 'posted', 'uncertain');
create index adjustment_contact on adjustment (contact, id);

create table adjustment_transition (
    adjustment bigint not null references adjustment on delete cascade,
    at timestamptz not null default clock_timestamp(),
    state text not null,
    reason text,
    answer text,
    run_id text
);
comment on table adjustment_transition is 'every state an adjustment has entered, with why';
create index adjustment_transition_adjustment on adjustment_transition (adjustment);

create table webhook_kind (
    event_type text primary key,
    received bigint not null default 0,
    last_at timestamptz not null
);
comment on table webhook_kind is 'verified deliveries by event type, also of those that nothing acts on';

create table dead_letter (
    id bigint generated always as identity primary key,
    delivery_id text not null unique,
    received_at timestamptz not null default clock_timestamp(),
    reason text not null,
    body text not null
);
comment on table dead_letter is 'verified deliveries that could not be read (encrypted, no JSON), kept as they came';
"""


def upgrade() -> None:
    """Create the queue of adjustments."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop the queue of adjustments, with its data."""
    op.execute("drop table dead_letter, webhook_kind, adjustment_transition, adjustment;")
