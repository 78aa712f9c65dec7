"""A trained model at work: predictions for new rows."""
