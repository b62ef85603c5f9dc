"""The web console: for people without a shell.

Server-rendered pages over the same functions that the commands and Dagster's assets call. Belongs here: who somebody is
and what they may do (`sign_in`, `access`), what protects every answer (`shield`), and the pages. Does not: any rule or
statement about points; a page that needs one asks the capability that has it.
"""
