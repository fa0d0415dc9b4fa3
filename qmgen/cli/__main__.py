"""`python -m qmgen.cli`."""

from qmgen.cli import main

main()
