"""The limiter's cost no longer depends on vacuum: a slot's newest version is the last of its entries in the index.

Each request writes its slot twice. Beside an old snapshot vacuum can remove none of the former versions, and whoever looks
for the row by a key that stays the same has to pass all of them. So the key goes on with each version, and the newest is
looked for from the end. For pauses nothing changes (`rate_hold`): they are few, and the version before writes them itself.

Revision ID: 0025
"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"

SCHEMA = """
alter table rate_slot add column turn bigint not null default 0;
alter table rate_slot drop constraint rate_slot_pkey, add primary key (bucket, slot, turn);
comment on column rate_slot.turn is 'how often the slot was taken and set free; whoever has an older one has lost it';
create unlogged table rate_wait (
    bucket text not null,
    priority smallint not null,
    turn bigint not null default 0,
    until timestamptz not null,
    set_at timestamptz not null default clock_timestamp(),
    primary key (bucket, priority, turn)
);
comment on table rate_wait is 'until when somebody of a priority waits for a slot: lower ones get none; a row for each priority';
drop function take_slot(text, integer, integer, interval);
"""

# One plan for all calls, as planning costs more than all else here, and one that looks into the index, although the table
# was small when it was made.
TAKE = """
create function take_slot(the_bucket text, slots integer, the_priority integer, lease interval)
returns table (taken integer, wait double precision, its_turn bigint)
language plpgsql
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_variable
declare
    now_ timestamptz := clock_timestamp();
    blocked timestamptz;
    known integer;
    ahead boolean;
    one record;
begin
    select max(h.until) into blocked from (
        select p.until, p.set_at from rate_hold p where p.bucket = the_bucket and p.priority = 0
        union all
        select w.until, w.set_at from generate_series(1, the_priority - 1) n, lateral (
            select x.until, x.set_at from rate_wait x where x.bucket = the_bucket and x.priority = n
            order by x.turn desc limit 1) w
    ) h where h.until > now_ and h.set_at <= now_ + interval '1 second';
    if blocked is null then
        for one in
            select n as slot, s.turn from generate_series(0, slots - 1) n, lateral (
                select x.turn, x.free_at from rate_slot x where x.bucket = the_bucket and x.slot = n
                order by x.turn desc limit 1) s
            where s.free_at <= now_
        loop
            perform from rate_slot s where s.bucket = the_bucket and s.slot = one.slot and s.turn = one.turn
                for update skip locked;
            continue when not found;
            update rate_slot r set free_at = now_ + lease, set_at = now_, requests = r.requests + 1, turn = one.turn + 1,
                slots = case when the_priority < 3 then slots else r.slots end
                where r.bucket = the_bucket and r.slot = one.slot and r.turn = one.turn;
            taken := one.slot;
            wait := 0;
            its_turn := one.turn + 1;
            return next;
            return;
        end loop;
        select count(*), min(s.free_at), bool_or(s.set_at > now_ + interval '1 second') into known, blocked, ahead
            from generate_series(0, slots - 1) n, lateral (
                select x.free_at, x.set_at from rate_slot x where x.bucket = the_bucket and x.slot = n
                order by x.turn desc limit 1) s;
        -- As many as the caller's setting says, whoever came before: a crash of the server may have emptied the table.
        if known < slots then
            insert into rate_slot (bucket, slot, free_at)
                select the_bucket, n, now_ + interval '1 second' from generate_series(0, slots - 1) n
                where (select x.slot from rate_slot x where x.bucket = the_bucket and x.slot = n
                       order by x.turn desc limit 1) is null
                on conflict do nothing;
            blocked := least(blocked, now_ + interval '1 second');
        end if;
        -- What was set in the future was set before the clock was put back: it lasts as long as it would have.
        if ahead then
            update rate_slot r set free_at = now_ + (r.free_at - r.set_at), set_at = now_, turn = r.turn + 1
                from (select s.slot, s.turn from rate_slot s
                      where s.bucket = the_bucket and s.set_at > now_ + interval '1 second' for update skip locked) old
                where r.bucket = the_bucket and r.slot = old.slot and r.turn = old.turn;
            blocked := now_;
        end if;
    end if;
    -- Said for long enough to last until this one asks again, and not each time anew.
    insert into rate_wait (bucket, priority, until, set_at)
        select the_bucket, the_priority, now_, now_
        where (select x.turn from rate_wait x where x.bucket = the_bucket and x.priority = the_priority
               order by x.turn desc limit 1) is null
        on conflict do nothing;
    select x.turn, x.until, x.set_at into one from rate_wait x
        where x.bucket = the_bucket and x.priority = the_priority order by x.turn desc limit 1;
    if one.until < now_ + interval '0.3 second' or one.set_at > now_ + interval '1 second' then
        update rate_wait r set until = now_ + interval '0.4 second', set_at = now_, turn = r.turn + 1
            where r.bucket = the_bucket and r.priority = the_priority and r.turn = one.turn;
    end if;
    taken := null;
    wait := greatest(extract(epoch from blocked - clock_timestamp()), 0.001);
    return next;
end $$;
comment on function take_slot is
    'one of N slots, each free again one second after the answer to its last request: at most N requests in any second';
"""


def upgrade() -> None:
    """Let the key of slots go on, and keep who waits in a table of its own."""
    op.execute(SCHEMA)
    op.execute(TAKE)


def downgrade() -> None:
    """Leave it: the version before works with it."""
