"""The `ila` command: one module a verb, which parses, calls one or two rooms, and prints."""
