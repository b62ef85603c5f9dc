"""Points given in Engage, posted to Treazure exactly once.

`signatures` and `events` read a delivery, `inbox` stores it before it is answered, `queue` holds what is due, `processing` posts it and sends the
new balance to Engage, and `evidence` decides whether a call took effect. `definitions` shows it all in Dagster.
"""
