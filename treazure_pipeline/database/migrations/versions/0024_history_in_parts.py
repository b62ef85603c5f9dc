"""The points history in 32 partitions by contact, and autovacuum that keeps up with large tables.

A large history is not copied here, nor one that is being exported, since an upgrade is one transaction and others would wait
for it: whoever owns the schema calls `partition_points_history()` when it suits. Every version works with either shape, as
names and columns are the same.

Revision ID: 0024
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"

# Without a foreign key: to check it, the programmes' table would be locked for as long as that takes.
# Hash by contact: a log is read, compared and replaced in one partition, and vacuum has one partition at a time to do.
FUNCTION = """
create function partition_points_history() returns bigint language plpgsql set search_path = treazure_pipeline as $$
declare
    copied bigint;
begin
    lock table points_history in access exclusive mode;
    if (select relkind from pg_class where oid = 'points_history'::regclass) = 'p' then
        return 0;
    end if;
    alter table points_history rename to points_history_whole;
    create table points_history (like points_history_whole including defaults including comments)
        partition by hash (contact);
    for part in 0..31 loop
        execute format(
            'create table points_history_%s partition of points_history for values with (modulus 32, remainder %s) '
            'with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05, '
            'autovacuum_vacuum_insert_scale_factor = 0.05)', to_char(part, 'FM00'), part);
    end loop;
    insert into points_history select * from points_history_whole;
    get diagnostics copied = row_count;
    create or replace view treazure_reporting.movement as
    select g.name as programme, h.contact, h.position, h.date_time as moved_at, h.amount as points,
           h.balance as balance_after, h.transaction_type, h.expires_at, h.shop_id, h.pos_id, h.receipt_nr as receipt,
           r.read_at
    from points_history h
    join programme g on g.id = h.programme
    left join points_history_read r on r.programme = h.programme and r.contact = h.contact;
    drop table points_history_whole;
    alter table points_history add primary key (programme, contact, position);
    create index points_history_time on points_history (programme, date_time);
    comment on table points_history is
        'Treazure''s points log of each contact, as it was when it was last read (points_history_read)';
    return copied;
end $$;
comment on function partition_points_history is
    'puts points_history into partitions and returns the rows it copied; whoever reads or writes the history waits for it';
"""

# 100,000 rows are copied within a second.
WHERE_SMALL = """
do $$ begin
    set local lock_timeout = '2s';
    if (select count(*) from (select from points_history limit 100001) h) <= 100000 then
        perform partition_points_history();
    end if;
    set local lock_timeout = 0;
exception when lock_not_available then
    raise notice 'points_history is in use; call partition_points_history() later';
end $$
"""

# The default of a fifth is ten million dead rows of fifty million, which is too late for the pages of an upsert.
LARGE = ("pending", "verification", "points_history_read", "points_history_due", "migration_contact")


def upgrade() -> None:
    """Make the function, and call it where the history is small."""
    op.execute(FUNCTION)
    op.execute(WHERE_SMALL)
    for table in LARGE:
        op.execute(
            f"alter table {table} set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)"
        )


def downgrade() -> None:
    """Drop the function; partitions stay, since every version works with them."""
    op.execute("drop function partition_points_history()")
    for table in LARGE:
        op.execute(f"alter table {table} reset (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor)")
