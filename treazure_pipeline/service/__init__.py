"""The service: an ASGI application that stores what Engage sends, durably, before it answers.

It judges nothing but the signature: what an adjustment comes to is the queue's and the job's. It knows nothing of
Dagster and needs neither system, so it can run on a host of its own with the database and the signing secret alone.
Only where points logs are switched on (`history`) does it read from Treazure.
"""
