"""Case 1: the hourly balance sync, from Treazure's export through the ledger to Engage.

`snapshot` fetches and stages an export, `merge` makes it pending balances, `guards` and `plans` decide whether they may go, `push` is the one
path to Engage, `rejections` keeps what was refused. `definitions` shows it in Dagster.
"""
