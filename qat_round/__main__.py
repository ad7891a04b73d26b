"""`python -m qat_round`: the command line."""

from qat_round.cli.main import program

program()
