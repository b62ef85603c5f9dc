"""The point migration: a backfill that moves a programme's points from Treazure into Engage before it goes live."""
