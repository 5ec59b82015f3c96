"""The highest tier: the best model; answers what nobody below could be trusted with."""

from escalade.tiers.edge_server.service import EdgeServer

__all__ = ["EdgeServer"]
