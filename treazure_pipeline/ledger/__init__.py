"""The ledger: what the points master is known to hold, what the follower accepted, and what differs.

What all capabilities stand on, in sets of SQL: plain functions over a `store.Ledger`, which know nothing of Dagster or HTTP.
"""
