"""The web console: for people without a shell.

Its pages are rendered on the server and call the same functions as the commands and Dagster's assets. `sign_in` and `access` decide who
somebody is and what they may do, and `shield` protects every answer. The rules and SQL about points are in the capabilities.
"""
