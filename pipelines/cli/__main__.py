"""`python -m headway.pipelines.cli`: the command line without its script."""

from headway.pipelines.cli import main

if __name__ == "__main__":
    main()
