"""`python -m codecflow`: the command line, where the `codecflow` script is not on the path."""

from codecflow.cli.app import main

main()
