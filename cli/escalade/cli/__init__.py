"""The `escalade` command."""
