"""What the user calls DATA, from files and names to batches."""
