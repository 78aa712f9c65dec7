"""A model as a server of answers: requests in batches as they come, with bounds; by FastAPI, the extra [serve]."""
