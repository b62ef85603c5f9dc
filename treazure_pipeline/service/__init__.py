"""An ASGI application that durably stores what Engage sends before it answers.

It only judges the signature; the rest happens later, in the queue and its job. It knows nothing about Dagster and needs neither system, so it can
run on its own host with just the database and the signing secret. It only reads from Treazure if points logs are switched on
(HISTORY_API_KEY).
"""
