"""The clients of Treazure and Engage: HTTP, authentication, retries, wire formats and nothing else.

They know nothing about Dagster, the ledger or settings. What they need is passed to them.
"""
