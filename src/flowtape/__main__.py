"""`python -m flowtape`."""

from flowtape.cli import main

main()
