"""The command line: parse, call, print; one file a command. Nothing here imports torch before a command computes."""
