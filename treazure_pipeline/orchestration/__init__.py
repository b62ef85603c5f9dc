"""Everything that is Dagster, and nothing that moves points by itself."""
