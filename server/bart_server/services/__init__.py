"""The methods of the wire contract."""
