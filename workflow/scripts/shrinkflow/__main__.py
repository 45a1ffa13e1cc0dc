"""`python -m shrinkflow`: the program `shrinkflow`, where it is not installed."""

from shrinkflow import commands

commands.entry()
