"""`python -m headway.pipelines.cli`: the command line without its script."""

from headway.pipelines.cli import main

main()
