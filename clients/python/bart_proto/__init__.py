"""The wire contract of the BART server. `v1` is generated from protos/bart/v1 by protos/generate.py."""
