"""What a run found: metrics, predictions, the model card."""
