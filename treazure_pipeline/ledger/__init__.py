"""The ledger: what the points master is known to hold, what the follower has accepted, and what differs.

All capabilities use it. It consists of plain functions on a `store.Ledger` that work in sets of SQL and know nothing of Dagster or HTTP.
"""
