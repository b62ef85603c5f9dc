"""``python -m treazure_pipeline.cli``: the command where no console script is installed."""

from treazure_pipeline.cli import main

main()
