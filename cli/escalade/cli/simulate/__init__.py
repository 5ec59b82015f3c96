"""`escalade simulate`: `arguments` is its grammar, `command` runs an action, each of which is a file."""
