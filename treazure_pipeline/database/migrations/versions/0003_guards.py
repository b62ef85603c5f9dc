"""Guards, plans and their approval; rows that are held or marked for sending again; the size of a programme.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = """
alter table observation drop constraint observation_source_check;
alter table observation add constraint observation_source_check check (source in ('export', 'account', 'read_back'));

alter table programme add column loaded_at timestamptz;
comment on column programme.loaded_at is 'when the first load was through; until then guards pass';
update programme g set loaded_at = clock_timestamp()
where exists (select from ledger l where l.programme = g.id);

create table known (
    programme smallint primary key,
    contacts bigint not null default 0
) with (fillfactor = 20);
comment on table known is
    'how many rows of the ledger a programme has; apart from programme, and no foreign key to it, since every claim locks its row';
insert into known select g.id, (select count(*) from ledger l where l.programme = g.id) from programme g;

alter table pending add column marked boolean not null default false;
alter table pending add column let_through numeric;
comment on column pending.marked is 'a read-back showed that Engage does not hold what it accepted: to be sent even where nothing changed';
comment on column pending.let_through is 'the negative balance that a person has approved; another negative one is held';

create table plan (
    id bigint generated always as identity primary key,
    programme smallint not null references programme,
    digest text not null,
    run_id text not null,
    state text not null default 'open' check (state in ('open', 'approved', 'used', 'replaced', 'expired')),
    made_at timestamptz not null default clock_timestamp(),
    figures jsonb not null,
    reasons text[] not null,
    approved_at timestamptz,
    approved_by text,
    expires_at timestamptz,
    used_at timestamptz,
    used_run_id text
);
comment on table plan is 'what a run would have pushed, had no guard tripped; a person can let it through once';
create index plan_live on plan (programme, id) where state in ('open', 'approved');
create table plan_lot (
    plan bigint not null references plan on delete cascade,
    contacts uuid[] not null,
    before numeric[] not null,
    after numeric[] not null
);
create index plan_lot_plan on plan_lot (plan);

drop view balance;
drop view unsettled;
create view unsettled as
    select programme, contact, master, observation, since, tries, refused_last, next_try, gone, reason, marked,
           gone or coalesce(next_try > clock_timestamp(), false)
                or (master < 0 and let_through is distinct from master) as held
    from pending
    union all
    select c.programme, r.contact, r.after, c.observation, c.noted_at, 0, null, null, false, null, false, false
    from change c, unnest(c.contacts, c.after) r (contact, after)
    where c.planned and not exists (select from pending p where p.programme = c.programme and p.contact = r.contact)
    union all
    select b.programme, r.contact, r.amount, b.observation, b.claimed_at, 0, null, null, false, null, false, false
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
    """Create plans, holds and marks."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Refuse: a ledger of an older version would send what is held."""
    message = "The schema can't go back behind guards; restore a backup."
    raise RuntimeError(message)
