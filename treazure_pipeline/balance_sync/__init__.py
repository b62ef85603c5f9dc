"""The hourly balance sync: from Treazure's export through the ledger to Engage.

`snapshot` fetches an export and stages it, `merge` turns differences into pending rows, `guards` and `plans` decide whether they may be sent,
and `push` sends them; nothing else does. `rejections` keeps what could not be read or was refused. `definitions` shows it all in Dagster.
"""
