"""Leases with fencing tokens instead of locks that a session holds; a rate that always fills up to its setting.

Revision ID: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = """
create table lease (
    name text primary key,
    token bigint not null,
    holder text not null,
    taken_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    unique (name, token)
) with (fillfactor = 50);
comment on table lease is 'exclusive work, such as sync:1 for the run of programme 1; renewed by its holder, free once expired';
comment on column lease.holder is 'the process that holds it: boot, process namespace, process, its start';
comment on column lease.token is 'one more with each holder; whoever has an older one can''t write any more';

alter table rate_slot add column if not exists set_at timestamptz not null default clock_timestamp();
alter table rate_hold add column if not exists set_at timestamptz not null default clock_timestamp();
comment on column rate_slot.set_at is 'when free_at was set: in the future once the clock has been put back';
create or replace function take_slot(the_bucket text, slots integer, the_priority integer, lease interval)
returns table (taken integer, wait double precision) language plpgsql as $$
declare
    now_ timestamptz := clock_timestamp();
    blocked timestamptz;
begin
    select max(h.until) into blocked from rate_hold h
        where h.bucket = the_bucket and h.priority < the_priority and h.until > now_
          and h.set_at <= now_ + interval '1 second';
    if blocked is null then
        select s.slot into taken from rate_slot s
            where s.bucket = the_bucket and s.slot < slots and s.free_at <= now_
            order by s.free_at limit 1 for update skip locked;
        if found then
            update rate_slot set free_at = now_ + lease, set_at = now_ where bucket = the_bucket and slot = taken;
            wait := 0;
            return next;
            return;
        end if;
        -- As many as the caller's setting says, whoever came before: a crash of the server may have emptied the table.
        insert into rate_slot (bucket, slot, free_at)
            select the_bucket, n, now_ + interval '1 second' from generate_series(0, slots - 1) n
            where not exists (select from rate_slot s where s.bucket = the_bucket and s.slot = n)
            on conflict do nothing;
        -- What was set in the future was set before the clock was put back: it lasts as long as it would have.
        update rate_slot r set free_at = now_ + (r.free_at - r.set_at), set_at = now_
            from (select s.slot from rate_slot s
                  where s.bucket = the_bucket and s.set_at > now_ + interval '1 second' for update skip locked) old
            where r.bucket = the_bucket and r.slot = old.slot;
        select min(s.free_at) into blocked from rate_slot s where s.bucket = the_bucket and s.slot < slots;
    end if;
    insert into rate_hold values (the_bucket, the_priority, now_ + interval '0.3 second')
        on conflict (bucket, priority) do update set until = excluded.until, set_at = clock_timestamp();
    taken := null;
    wait := greatest(extract(epoch from blocked - clock_timestamp()), 0.001);
    return next;
end $$;
"""


def upgrade() -> None:
    """Create the table; slots of the shared rate know when they were set."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Drop the table; what the shared rate has gained is no hindrance to the version before."""
    op.execute("drop table lease")
