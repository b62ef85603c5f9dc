"""The clients of Treazure and Engage: HTTP, authentication, retries, wire formats and nothing else.

They know nothing of Dagster, of the ledger or of settings; what they need is handed in.
"""
