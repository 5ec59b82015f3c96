"""The middle tier: a gateway that answers for the endpoints below it."""

from escalade.tiers.edge_node.service import EdgeNode

__all__ = ["EdgeNode"]
