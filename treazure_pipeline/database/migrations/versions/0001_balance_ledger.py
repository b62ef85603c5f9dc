"""The balance ledger: programmes, observations, changes, pending balances, batches, the shared rate.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

SCHEMA = """
create table programme (
    id smallint generated always as identity primary key,
    name text not null,
    loyalty_id text not null,
    definition_id integer not null,
    mode text not null default 'live' check (mode in ('live', 'migrating')),
    covered tstzmultirange not null default '{}',
    export_answered timestamptz not null default 'epoch',
    last_time_stamp timestamptz not null default 'epoch',
    points_total numeric not null default 0,
    audited_at timestamptz not null default 'epoch',
    unique (loyalty_id, definition_id)
);
comment on column programme.covered is 'mutation times whose result is in the ledger; a gap shows as a second range';
comment on column programme.export_answered is 'no export merged so far was answered later than this';
comment on column programme.last_time_stamp is 'the newest timeStamp given to a batch; the next one is later';
comment on column programme.points_total is 'running total of the master balances';

create table observation (
    id bigint generated always as identity primary key,
    programme smallint not null references programme,
    source text not null check (source in ('export', 'account')),
    state text not null check (state in ('asked', 'staged', 'merged')),
    run_id text,
    asked timestamptz not null,
    answered timestamptz,
    contact uuid,
    window_from timestamptz,
    window_to timestamptz,
    is_full boolean not null default false,
    figures jsonb not null default '{}',
    entered bigint not null default 0
);
comment on table observation is 'a statement of the points master, true at some time in [asked, answered] (database clock)';
comment on column observation.entered is 'rows that it added to pending';
create index observation_answered on observation (programme, answered);
create index observation_run on observation (run_id);

create table ledger (
    programme smallint not null,
    contact uuid not null,
    sent numeric not null,
    batch bigint not null,
    observation bigint not null,
    primary key (programme, contact)
) with (fillfactor = 75);
comment on table ledger is 'what Engage accepted last for each contact; equal to the master unless the contact is in pending';

create table pending (
    programme smallint not null,
    contact uuid not null,
    master numeric not null,
    observation bigint not null,
    since timestamptz not null,
    tries smallint not null default 0,
    refused_first timestamptz,
    refused_last timestamptz,
    next_try timestamptz,
    gone boolean not null default false,
    reason text,
    primary key (programme, contact)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
comment on column pending.gone is 'Engage has not known the contact for 30 days; no longer tried';
comment on table pending is 'rows to be sent that stand alone: left over, refused, or observed one by one';

create table change (
    id bigint generated always as identity primary key,
    programme smallint not null,
    observation bigint not null,
    planned boolean not null,
    noted_at timestamptz not null default clock_timestamp(),
    contacts uuid[] not null,
    before numeric[] not null,
    after numeric[] not null
);
comment on table change is 'what an observation changed, in lots of one request each: the history, and the plan of a push';
comment on column change.planned is 'its rows are still to be sent, but for those that have a row in pending by now';
create index change_observation on change (observation);
create index change_planned on change (programme, id) where planned;

create table reread (
    programme smallint not null,
    contact uuid not null,
    since timestamptz not null,
    primary key (programme, contact)
);
comment on table reread is 'two observations overlapped and differed: the account is to be read once more';

create table vanished (
    programme smallint not null,
    contact uuid not null,
    since timestamptz not null,
    primary key (programme, contact)
);
comment on table vanished is 'known contacts that the last full export did not list; never set to zero';

create table rejection (
    programme smallint not null references programme,
    digest text not null,
    contact uuid,
    field text not null,
    value text not null,
    reason text not null,
    raw text not null,
    first_seen timestamptz not null,
    last_seen timestamptz not null,
    seen bigint not null default 1,
    observation bigint not null,
    primary key (programme, digest)
);
comment on table rejection is 'rows of exports that could not be understood, kept as they came';

create table batch (
    id bigint generated always as identity primary key,
    programme smallint not null,
    run_id text not null,
    observation bigint not null,
    state text not null check (state in ('sending', 'accepted', 'folded', 'refused', 'failed', 'lost')),
    contacts uuid[] not null,
    amounts numeric[] not null,
    refused uuid[] not null default '{}',
    time_stamp timestamptz not null,
    claimed_at timestamptz not null,
    lease_until timestamptz not null,
    answered_at timestamptz,
    settled integer not null default 0,
    transaction_id text,
    request_id text,
    error text
);
comment on table batch is 'one request to Engage and exactly what it carried';
comment on column batch.state is 'accepted: the ledger will follow; folded: it has; refused, failed: without effect; lost: the effect is unknown';
create index batch_open on batch (programme, id) where state in ('sending', 'accepted', 'lost');
create index batch_run on batch (run_id);

create unlogged table rate_slot (
    bucket text not null,
    slot integer not null,
    free_at timestamptz not null,
    primary key (bucket, slot)
) with (fillfactor = 20);
create unlogged table rate_hold (
    bucket text not null,
    priority smallint not null,
    until timestamptz not null,
    primary key (bucket, priority)
) with (fillfactor = 20);

create function take_slot(the_bucket text, slots integer, the_priority integer, lease interval)
returns table (taken integer, wait double precision) language plpgsql as $$
declare
    now_ timestamptz := clock_timestamp();
    blocked timestamptz;
begin
    select max(h.until) into blocked from rate_hold h
        where h.bucket = the_bucket and h.priority < the_priority and h.until > now_
          and h.until < now_ + interval '1 hour';
    if blocked is null then
        select s.slot into taken from rate_slot s
            where s.bucket = the_bucket and s.slot < slots
              and (s.free_at <= now_ or s.free_at > now_ + interval '1 hour')
            order by s.free_at limit 1 for update skip locked;
        if found then
            update rate_slot set free_at = now_ + lease where bucket = the_bucket and slot = taken;
            wait := 0;
            return next;
            return;
        end if;
        select min(s.free_at) into blocked from rate_slot s where s.bucket = the_bucket and s.slot < slots;
        if blocked is null then
            insert into rate_slot select the_bucket, n, now_ + interval '1 second' from generate_series(0, slots - 1) n
            on conflict do nothing;
            blocked := now_ + interval '1 second';
        end if;
    end if;
    insert into rate_hold values (the_bucket, the_priority, now_ + interval '0.3 second')
        on conflict (bucket, priority) do update set until = excluded.until;
    taken := null;
    wait := greatest(extract(epoch from blocked - clock_timestamp()), 0.001);
    return next;
end $$;
comment on function take_slot is
    'one of N slots, each free again one second after the answer to its last request: at most N requests in any second';

create view unsettled as
    select programme, contact, master, observation, since, tries, refused_last, next_try, gone, reason from pending
    union all
    select c.programme, r.contact, r.after, c.observation, c.noted_at, 0, null, null, false, null
    from change c, unnest(c.contacts, c.after) r (contact, after)
    where c.planned and not exists (select from pending p where p.programme = c.programme and p.contact = r.contact)
    union all
    select b.programme, r.contact, r.amount, b.observation, b.claimed_at, 0, null, null, false, null
    from batch b, unnest(b.contacts, b.amounts) r (contact, amount)
    where b.state in ('sending', 'accepted')
      and not exists (select from pending p where p.programme = b.programme and p.contact = r.contact);
comment on view unsettled is 'contacts whose newest master balance is not known to be what Engage accepted last';

create view balance as
    select g.name as programme, coalesce(u.contact, l.contact) as contact, coalesce(u.master, l.sent) as master, l.sent,
           u.contact is not null as pending, u.since as pending_since, u.reason, u.next_try, l.batch,
           coalesce(u.observation, l.observation) as observation
    from ledger l full join unsettled u on u.programme = l.programme and u.contact = l.contact
    join programme g on g.id = coalesce(l.programme, u.programme);
"""


def upgrade() -> None:
    """Create the balance ledger."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop everything, with its data."""
    op.execute("drop schema treazure_pipeline cascade; create schema treazure_pipeline;")
