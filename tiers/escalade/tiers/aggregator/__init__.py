"""The aggregator: several edge nodes observe one event, and get one answer that survives a broken node."""
