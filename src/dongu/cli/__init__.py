"""The command line: parse, call, print. Nothing here imports torch before a command computes."""
