-- The views for analysts: stable names, the programme by its name, times with their zone, exact points.
-- No name, text or body that a person wrote: what stands between « and » in a reason is left out.
-- Of each column the comment says all that a reader needs; docs/data-dictionary.md is made from them.

comment on schema treazure_reporting is
    'Views for analysts: balances, changes, movements and the state of the sync. Points are exact decimals, times are UTC.';

create view treazure_reporting.contact_balance as
select g.name as programme, coalesce(u.contact, l.contact) as contact, coalesce(u.master, l.sent) as master_balance,
       l.sent as sent_balance, u.contact is not null as pending, u.since as pending_since, coalesce(u.held, false) as held,
       coalesce(u.gone, false) as gone, regexp_replace(u.reason, '«[^»]*(»|$)', '«…»', 'g') as reason, u.next_try,
       v.shown as verified_balance, v.verdict, v.read_at as verified_at
from ledger l
full join unsettled u on u.programme = l.programme and u.contact = l.contact
join programme g on g.id = coalesce(l.programme, u.programme)
left join verification v on v.programme = g.id and v.contact = coalesce(u.contact, l.contact);

comment on view treazure_reporting.contact_balance is
    'Now: one row for each contact of each programme, with the balance in Treazure and what Engage was given.';
comment on column treazure_reporting.contact_balance.programme is 'Name of the programme.';
comment on column treazure_reporting.contact_balance.contact is 'Contact id, a GUID that is the same in Treazure and Engage.';
comment on column treazure_reporting.contact_balance.master_balance is 'Points in Treazure, as it last said.';
comment on column treazure_reporting.contact_balance.sent_balance is
    'Points that Engage accepted last; null as long as it has accepted none.';
comment on column treazure_reporting.contact_balance.pending is
    'True while the balance still has to be sent, or it is not certain that Engage has it.';
comment on column treazure_reporting.contact_balance.pending_since is 'When it became pending (UTC); null where it is not pending.';
comment on column treazure_reporting.contact_balance.held is
    'True where a pending balance is kept back: it waits for its next try, is below zero, or the contact is gone.';
comment on column treazure_reporting.contact_balance.gone is
    'True where Engage has not known the contact for 30 days; it is tried again when the balance changes.';
comment on column treazure_reporting.contact_balance.reason is
    'Why Engage refused the balance, without what others wrote; null where it did not refuse.';
comment on column treazure_reporting.contact_balance.next_try is 'When a refused balance is sent again (UTC); null where nothing waits.';
comment on column treazure_reporting.contact_balance.verified_balance is
    'Points that Engage showed when the contact was last read back; null where it was never read back or has no account.';
comment on column treazure_reporting.contact_balance.verdict is
    'What that reading found: equal, drift (another balance than accepted) or missing (no account); null where never read back.';
comment on column treazure_reporting.contact_balance.verified_at is 'When the contact was last read back (UTC); null where never.';

create view treazure_reporting.balance_change as
select g.name as programme, r.contact, r.before as balance_before, r.after as balance_after,
       r.after - coalesce(r.before, 0) as points, c.noted_at, o.source, o.run_id, o.window_from, o.window_to,
       o.asked as asked_at, o.answered as answered_at, c.observation
from change c
join programme g on g.id = c.programme
left join observation o on o.id = c.observation,
unnest(c.contacts, c.before, c.after) as r (contact, before, after);

comment on view treazure_reporting.balance_change is
    'One row for each change of a balance in Treazure that the ledger noticed, for as long as LEDGER_HISTORY_DAYS says. '
    'Several changes within an hour may be one row. Filter by noted_at: it is indexed.';
comment on column treazure_reporting.balance_change.programme is 'Name of the programme.';
comment on column treazure_reporting.balance_change.contact is 'Contact id, a GUID that is the same in Treazure and Engage.';
comment on column treazure_reporting.balance_change.balance_before is 'Points known before; null for a contact seen for the first time.';
comment on column treazure_reporting.balance_change.balance_after is 'Points from then on.';
comment on column treazure_reporting.balance_change.points is
    'Change in points: balance_after less balance_before (0 for a new contact); negative where points went.';
comment on column treazure_reporting.balance_change.noted_at is 'When the ledger noticed the change, by the database''s clock (UTC).';
comment on column treazure_reporting.balance_change.source is
    'Where it was noticed: export (the sync), account (one account read by itself, as after an adjustment) or read_back (the audit '
    'of a migration); null once a reading of a single account has been pruned.';
comment on column treazure_reporting.balance_change.run_id is 'Run in Dagster that noticed it; null once pruned.';
comment on column treazure_reporting.balance_change.window_from is
    'Start of the mutation times that the export was asked for (UTC); null for a single account.';
comment on column treazure_reporting.balance_change.window_to is 'End of these mutation times (UTC); null for a single account.';
comment on column treazure_reporting.balance_change.asked_at is
    'When Treazure was asked (UTC): the balance was true at some time between asked_at and answered_at; null once pruned.';
comment on column treazure_reporting.balance_change.answered_at is 'When Treazure had answered (UTC); null once pruned.';
comment on column treazure_reporting.balance_change.observation is
    'Number of the export or reading that showed the change; for an export, sync_run.observation.';

create view treazure_reporting.movement as
select g.name as programme, h.contact, h.position, h.date_time as moved_at, h.amount as points, h.balance as balance_after,
       h.transaction_type, h.expires_at, h.shop_id, h.pos_id, h.receipt_nr as receipt, r.read_at
from points_history h
join programme g on g.id = h.programme
left join points_history_read r on r.programme = h.programme and r.contact = h.contact;

comment on view treazure_reporting.movement is
    'One row for each movement in Treazure''s points log of a contact, as last read. Empty unless the job refresh_points_history runs. '
    'Descriptions and names of operators are left out.';
comment on column treazure_reporting.movement.programme is 'Name of the programme.';
comment on column treazure_reporting.movement.contact is 'Contact id, a GUID that is the same in Treazure and Engage.';
comment on column treazure_reporting.movement.position is 'Place in the contact''s log, from 1, oldest first.';
comment on column treazure_reporting.movement.moved_at is 'When the points moved, by Treazure''s clock (UTC).';
comment on column treazure_reporting.movement.points is 'Points moved; negative where they went. A RedeemVoucher moves none, whatever stands here.';
comment on column treazure_reporting.movement.balance_after is 'Points of the contact after the movement; null where Treazure names none.';
comment on column treazure_reporting.movement.transaction_type is
    'Kind of movement in Treazure''s words: Load, Convert, Redeem, Expire, Transfer, RedeemVoucher, or one that is new.';
comment on column treazure_reporting.movement.expires_at is
    'When these points expire (UTC); null unless the programme expires points by the date they were earned.';
comment on column treazure_reporting.movement.shop_id is 'Treazure''s id of the shop; null where there was none.';
comment on column treazure_reporting.movement.pos_id is 'Treazure''s id of the till; null where there was none.';
comment on column treazure_reporting.movement.receipt is
    'Number of the receipt; of a posted adjustment, adjustment.receipt. Null where there was none.';
comment on column treazure_reporting.movement.read_at is 'When the contact''s log was read (UTC); later movements are not in it yet.';

create view treazure_reporting.liability_daily as
select g.name as programme, d.day,
       sum(coalesce(l.carried + l.added - l.decreased, 0)) over so_far - coalesce(l.added - l.decreased, 0) as opening,
       coalesce(l.added, 0) as added, coalesce(l.decreased, 0) as decreased,
       sum(coalesce(l.carried + l.added - l.decreased, 0)) over so_far as closing
from programme g
join lateral (
    select n::date as day
    from generate_series((select min(day) from liability_day where programme = g.id)::timestamp,
                         (clock_timestamp() at time zone 'UTC')::date, interval '1 day') n
    union
    select day from liability_day where programme = g.id) d on true
left join liability_day l on l.programme = g.id and l.day = d.day
window so_far as (partition by g.id order by d.day);

comment on view treazure_reporting.liability_daily is
    'One row for each day (UTC) of each programme since counting began: points outstanding at its start and end, and what moved in between. '
    'opening + added - decreased = closing, and closing is the next day''s opening. Today''s row still moves.';
comment on column treazure_reporting.liability_daily.programme is 'Name of the programme.';
comment on column treazure_reporting.liability_daily.day is 'Calendar day in UTC on which the ledger noticed the changes.';
comment on column treazure_reporting.liability_daily.opening is
    'Points of all contacts together at the start of the day; on the first day, what was outstanding before counting began.';
comment on column treazure_reporting.liability_daily.added is
    'Points by which balances rose, added up; the first load of a programme counts as added.';
comment on column treazure_reporting.liability_daily.decreased is
    'Points by which balances fell (spent, expired, taken back), added up; never negative.';
comment on column treazure_reporting.liability_daily.closing is
    'Points of all contacts together at the end of the day; of today, so far.';

create view treazure_reporting.rejection_open as
select g.name as programme, r.contact, 'export' as origin, r.field || ': ' || regexp_replace(r.reason, '«[^»]*(»|$)', '«…»', 'g') as reason,
       r.seen as times, r.since, r.last_seen, null::timestamptz as next_try, false as gone, null::numeric as refused_balance
from rejection r
join programme g on g.id = r.programme
where r.resolved_at is null
union all
select g.name, p.contact, 'engage', regexp_replace(p.reason, '«[^»]*(»|$)', '«…»', 'g'), p.tries, p.refused_first, p.refused_last,
       case when not p.gone then coalesce(p.next_try, clock_timestamp()) end, p.gone, p.master
from pending p
join programme g on g.id = p.programme
where p.reason is not null;

comment on view treazure_reporting.rejection_open is
    'What is rejected and outstanding now: rows of Treazure''s exports that could not be understood, and balances that Engage refused. '
    'Rows leave by themselves when their cause is gone.';
comment on column treazure_reporting.rejection_open.programme is 'Name of the programme.';
comment on column treazure_reporting.rejection_open.contact is 'Contact id; null where a row of an export names none that can be read.';
comment on column treazure_reporting.rejection_open.origin is 'export: Treazure''s row could not be understood; engage: Engage refused the balance.';
comment on column treazure_reporting.rejection_open.reason is 'What is wrong, without what others wrote; for an export, the field comes first.';
comment on column treazure_reporting.rejection_open.times is 'How many exports listed the row, or how often Engage refused it.';
comment on column treazure_reporting.rejection_open.since is 'Since when it is outstanding (UTC).';
comment on column treazure_reporting.rejection_open.last_seen is 'When it was listed or refused last (UTC).';
comment on column treazure_reporting.rejection_open.next_try is
    'When the balance is sent again (UTC); null for a row of an export, and where the contact is gone.';
comment on column treazure_reporting.rejection_open.gone is
    'True where Engage has not known the contact for 30 days; it is tried again when the balance changes.';
comment on column treazure_reporting.rejection_open.refused_balance is 'Points that Engage refused; null for a row of an export.';

create view treazure_reporting.drift_open as
select g.name as programme, v.contact, v.verdict, v.sent as sent_balance, v.shown as shown_balance,
       v.sent - coalesce(v.shown, 0) as points_short, v.since, v.read_at, v.rounds
from verification v
join programme g on g.id = v.programme
where v.verdict <> 'equal';

comment on view treazure_reporting.drift_open is
    'Contacts for which Engage showed another balance than it had accepted when they were last read back. '
    'Each is sent again; a row leaves when a reading finds both equal.';
comment on column treazure_reporting.drift_open.programme is 'Name of the programme.';
comment on column treazure_reporting.drift_open.contact is 'Contact id, a GUID that is the same in Treazure and Engage.';
comment on column treazure_reporting.drift_open.verdict is 'drift: Engage shows another balance; missing: it has no account.';
comment on column treazure_reporting.drift_open.sent_balance is 'Points that Engage had accepted last at the time of the reading.';
comment on column treazure_reporting.drift_open.shown_balance is 'Points that Engage showed; null where it has no account.';
comment on column treazure_reporting.drift_open.points_short is
    'Points that Engage lacks: sent_balance less shown_balance (0 without an account); negative where it shows too many.';
comment on column treazure_reporting.drift_open.since is 'When it was first found to differ (UTC).';
comment on column treazure_reporting.drift_open.read_at is 'When it was last read back (UTC).';
comment on column treazure_reporting.drift_open.rounds is 'How often in a row it was found to differ and was sent again; from 3 on it counts as not healing.';

create view treazure_reporting.sync_run as
select o.id as observation, g.name as programme, o.run_id, o.state, o.is_full as full_resync, o.window_from, o.window_to,
       o.asked as asked_at, o.answered as answered_at, (o.figures ->> 'fetched')::bigint as fetched,
       (o.figures ->> 'duplicate')::bigint as duplicate, (o.figures ->> 'rejected')::bigint as rejected,
       (o.figures ->> 'superseded')::bigint as superseded, (o.figures ->> 'unchanged')::bigint as unchanged,
       (o.figures ->> 'changed')::bigint as changed, (o.figures ->> 'carried_over')::bigint as carried_over,
       (o.figures ->> 'points_before')::numeric as points_before, (o.figures ->> 'points_after')::numeric as points_after,
       b.requests, b.sent, b.refused, b.last_answered_at
from observation o
join programme g on g.id = o.programme
left join lateral (
    select count(*) as requests, coalesce(sum(settled), 0)::bigint as sent,
           coalesce(sum(cardinality(refused)), 0)::bigint as refused, max(answered_at) as last_answered_at
    from batch where run_id = o.run_id and programme = o.programme) b on o.state = 'merged'
where o.source = 'export';

comment on view treazure_reporting.sync_run is
    'One row for each export that a run of the sync asked for, with what its merge found and what the run sent. '
    'In a merged one fetched = duplicate + rejected + superseded + unchanged + changed.';
comment on column treazure_reporting.sync_run.observation is 'Number of the export, growing with time.';
comment on column treazure_reporting.sync_run.programme is 'Name of the programme.';
comment on column treazure_reporting.sync_run.run_id is 'Run in Dagster.';
comment on column treazure_reporting.sync_run.state is
    'asked: requested from Treazure; staged: fetched whole; merged: in the ledger. Only a merged one counts.';
comment on column treazure_reporting.sync_run.full_resync is 'True where all balances were asked for, false where those that changed in the window.';
comment on column treazure_reporting.sync_run.window_from is 'Start of the mutation times that were asked for (UTC).';
comment on column treazure_reporting.sync_run.window_to is 'End of the mutation times that were asked for (UTC).';
comment on column treazure_reporting.sync_run.asked_at is 'When the export was requested, by the database''s clock (UTC).';
comment on column treazure_reporting.sync_run.answered_at is 'When its result was there (UTC); null until then.';
comment on column treazure_reporting.sync_run.fetched is 'Rows in the export; null until it is staged.';
comment on column treazure_reporting.sync_run.duplicate is 'Rows that named a contact again; the latest one counted. Null until merged.';
comment on column treazure_reporting.sync_run.rejected is 'Rows that could not be understood; null until staged.';
comment on column treazure_reporting.sync_run.superseded is 'Contacts for which the ledger knew something newer, or could not tell; null until merged.';
comment on column treazure_reporting.sync_run.unchanged is 'Contacts whose balance was known already; null until merged.';
comment on column treazure_reporting.sync_run.changed is 'Contacts whose balance changed and had to be sent; null until merged.';
comment on column treazure_reporting.sync_run.carried_over is 'Contacts that were pending before and did not change now; null until merged.';
comment on column treazure_reporting.sync_run.points_before is 'Points of all contacts together before the merge; null until merged.';
comment on column treazure_reporting.sync_run.points_after is 'Points of all contacts together after it; null until merged.';
comment on column treazure_reporting.sync_run.requests is 'Requests that the run made to Engage; null until merged. History goes after LEDGER_HISTORY_DAYS.';
comment on column treazure_reporting.sync_run.sent is 'Balances that Engage accepted from the run and the ledger has booked; null until merged.';
comment on column treazure_reporting.sync_run.refused is 'Balances of the run that Engage refused; null until merged.';
comment on column treazure_reporting.sync_run.last_answered_at is 'When Engage answered the run''s last request (UTC); null where it made none.';

create view treazure_reporting.adjustment as
select a.id, g.name as programme, a.contact, a.amount as points, a.source, a.state,
       case when a.state not in ('posted', 'done', 'discarded') then regexp_replace(a.reason, '«[^»]*(»|$)', '«…»', 'g') end as reason,
       a.receipt, a.balance as balance_after, a.received_at, a.asked as asked_at, a.finished_at,
       case when a.finished_at is null then a.next_try end as next_try
from adjustment a
left join programme g on g.id = a.programme;

comment on view treazure_reporting.adjustment is
    'One row for each adjustment: points given in Engage, by hand or by an automation, which Treazure books exactly once. '
    'Descriptions are left out.';
comment on column treazure_reporting.adjustment.id is 'Number of the adjustment, in the order of arrival.';
comment on column treazure_reporting.adjustment.programme is 'Name of the programme; null until it is queued, and where the event names none.';
comment on column treazure_reporting.adjustment.contact is 'Contact id; null until it is queued, and where the event names none.';
comment on column treazure_reporting.adjustment.points is 'Points given; negative where they are taken. Null until it is queued.';
comment on column treazure_reporting.adjustment.source is 'webhook: an event of Engage; manual: added by a person on the command line.';
comment on column treazure_reporting.adjustment.state is
    'received, queued, sending, posted (Treazure has it), done (Engage shows it too), rejected, uncertain (nobody can tell '
    'whether Treazure has it) or discarded (given up by a person).';
comment on column treazure_reporting.adjustment.reason is
    'Why it is in this state, without what others wrote; null where nothing is wrong or a person decided.';
comment on column treazure_reporting.adjustment.receipt is 'Number by which it is found in Treazure''s log: movement.receipt.';
comment on column treazure_reporting.adjustment.balance_after is 'Points of the contact in Treazure after it; null until posted.';
comment on column treazure_reporting.adjustment.received_at is 'When the event was stored, by the database''s clock (UTC).';
comment on column treazure_reporting.adjustment.asked_at is 'When Treazure was last called about it (UTC); null where never.';
comment on column treazure_reporting.adjustment.finished_at is 'When it was done, rejected or discarded (UTC); null until then.';
comment on column treazure_reporting.adjustment.next_try is 'When it is looked at next (UTC); a time that is over means at once. Null before it is queued and once it is finished.';
