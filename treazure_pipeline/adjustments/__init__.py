"""Case 2: points given in Engage, posted to Treazure exactly once.

`signatures` and `events` read a delivery, `inbox` stores it before it is answered, `queue` holds what is due, `evidence` decides what became
of a call, `processing` posts it and sends the new balance to Engage. `definitions` shows it in Dagster.
"""
