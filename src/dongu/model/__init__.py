"""The model and what moves it: loading, optimizer, schedule, device."""
