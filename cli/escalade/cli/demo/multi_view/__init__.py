"""`escalade demo multi-view`: four edge nodes see the same digits, one of them breaks, the answers hold."""
