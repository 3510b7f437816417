"""Imported by the fork server alone, which can be told to import something, and nothing else."""

from evonas.executors.parts import fork_server

fork_server.watch()
