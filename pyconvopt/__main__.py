"""``python -m pyconvopt``: the command line, where its script is not on the path."""

from pyconvopt.cli import main

main()
