"""The servers that escalade is compared with, each run by the interpreter of its own environment.

Nothing here imports escalade: a peer has other versions of protobuf, and its own `inference.*` messages.
"""
