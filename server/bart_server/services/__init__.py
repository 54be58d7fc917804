"""Implements the methods of the protocol bart.v1."""
