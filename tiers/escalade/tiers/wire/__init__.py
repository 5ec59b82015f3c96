"""Where protobuf messages and domain objects meet; nothing else in `tiers` knows of the wire."""
