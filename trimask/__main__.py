"""`python -m trimask` is the command line."""

from trimask.cli.main import main

main()
