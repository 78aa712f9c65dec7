"""What computes a batch: with or without padding, on which device, with which dropout."""
