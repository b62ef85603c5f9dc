"""The point migration: from the logs that were fetched to files that Engage imports. Nothing here knows of Dagster."""
