"""Slots of the shared rate count the requests that took them, and know of how many they are: for metrics.

Revision ID: 0019
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

SCHEMA = """
alter table rate_slot add column if not exists requests bigint not null default 0;
alter table rate_slot add column if not exists slots integer;
comment on column rate_slot.requests is 'how many requests have taken it';
comment on column rate_slot.slots is 'how many slots there were for whoever took it last; background work, which gets half of them, leaves it';
create or replace function take_slot(the_bucket text, slots integer, the_priority integer, lease interval)
returns table (taken integer, wait double precision) language plpgsql as $$
#variable_conflict use_variable
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
            update rate_slot r set free_at = now_ + lease, set_at = now_, requests = r.requests + 1,
                slots = case when the_priority < 3 then slots else r.slots end
                where r.bucket = the_bucket and r.slot = taken;
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
    """Add both columns, and fill them."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Leave them: what the shared rate has gained is no hindrance to the version before."""
