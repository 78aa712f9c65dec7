"""What a run writes and shows: its folder, its journal, the console."""
