"""Everything that decodes bytes from elsewhere, fed with bytes that nobody meant."""
