"""`python -m qat_round`: the command line."""

from .cli import program

program()
