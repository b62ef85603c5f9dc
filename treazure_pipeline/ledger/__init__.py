"""The ledger: what the points master is known to hold, what the follower accepted, and what differs.

All SQL of the product is here, in sets; plain functions over a `store.Ledger`, which know nothing of Dagster or HTTP.
"""
