"""What the Dagster parts of all capabilities share: names, metadata, failures. Nothing here moves points."""
