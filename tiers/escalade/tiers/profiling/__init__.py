"""What this board takes for a model: `timing` (service times, batches, memory), `power` (what it draws meanwhile)."""
